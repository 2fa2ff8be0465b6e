"""The hub without a network: what is cached opens, and what is not is refused at once."""

import urllib.error
from functools import cache
from http.client import HTTPException
from urllib.request import Request, getproxies, urlopen

_PATIENCE_S = 10.0


@cache
def notice_absence() -> None:
    """Let the hub's libraries work offline if nobody answers at its address.

    They would ask again for a minute for each file where it is unknown or refused, and for many
    where a connection is taken and nothing said; they print a line each time.
    """
    from huggingface_hub import constants

    if getproxies() or constants.HF_HUB_OFFLINE:
        return
    try:
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=_PATIENCE_S).close()
    except urllib.error.HTTPError:
        pass  # that is an answer
    except (OSError, ValueError, HTTPException):  # ValueError: it is no address
        constants.HF_HUB_OFFLINE = True
