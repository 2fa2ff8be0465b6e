"""The hub without a network: what is cached opens, and what is not is refused at once."""

import socket
from functools import cache
from urllib.parse import urlsplit
from urllib.request import getproxies


@cache
def notice_absence() -> None:
    """Let the hub's libraries work offline if its address is unknown here.

    They would ask again for half a minute for each file, and print a line each time. A name server
    that does not answer takes its own time, once.
    """
    from huggingface_hub import constants

    host = urlsplit(constants.ENDPOINT).hostname
    if getproxies() or constants.HF_HUB_OFFLINE:
        return
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        constants.HF_HUB_OFFLINE = True
