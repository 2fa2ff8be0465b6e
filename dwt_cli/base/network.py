"""The hub without a network: what is cached opens, and what is not is refused at once."""

import threading
import urllib.error
from functools import cache
from http.client import HTTPException
from urllib.request import Request, getproxies, urlopen

_PATIENCE_S = 10.0
"""Seconds in all: a server may send a byte in a while, of which each is an answer to a socket."""


@cache
def notice_absence() -> None:
    """Let the hub's libraries work offline if nobody answers at its address.

    They would ask again for a minute for each file where it is unknown or refused, and for many
    where a connection is taken and nothing said; they print a line each time.
    """
    from huggingface_hub import constants

    if getproxies().keys() - {"no"} or constants.HF_HUB_OFFLINE:
        return
    has_answered = threading.Event()

    def ask() -> None:
        try:
            urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=_PATIENCE_S).close()
            has_answered.set()
        except urllib.error.HTTPError:
            has_answered.set()
        except (OSError, ValueError, HTTPException):  # ValueError: it is no address
            pass

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_PATIENCE_S)
    constants.HF_HUB_OFFLINE = not has_answered.is_set()
