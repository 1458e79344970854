"""Models of the Hugging Face hub: without a connection they come from the local cache at once, or not at all.

The hub's client otherwise tries every file five times with growing pauses, and prints a paragraph each time.
"""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["hub_access"]

CONNECT_S = 5.0  # for one connection to the hub


@contextmanager
def hub_access(name: str) -> Iterator[None]:
    """A block that loads the model of this name by one of the hub's libraries, which say nothing on stderr. The name of
    a folder asks for no connection.

    If the hub cannot be reached, only its local cache is used in the block. Raises FileNotFoundError, in one sentence,
    if the model cannot be loaded then; with a connection, what the libraries raise.
    """
    if Path(name).is_dir():
        yield
        return
    from huggingface_hub import constants
    from huggingface_hub.utils import logging

    verbosity, was_offline = logging.get_verbosity(), constants.HF_HUB_OFFLINE
    is_offline = was_offline or not _is_reachable(constants.ENDPOINT)
    logging.set_verbosity_error()
    constants.HF_HUB_OFFLINE = is_offline
    try:
        yield
    except Exception as error:
        if is_offline and "cache" in str(error).lower():
            why = "HF_HUB_OFFLINE is set" if was_offline else f"{constants.ENDPOINT} cannot be reached"
            raise FileNotFoundError(
                f"the model {name} is neither a folder nor in the local cache, and {why}; download it first, or give "
                "the folder that holds it"
            ) from error
        raise
    finally:
        constants.HF_HUB_OFFLINE = was_offline
        logging.set_verbosity(verbosity)


@cache
def _is_reachable(endpoint: str) -> bool:
    """Whether there is a server; with a proxy only requests could tell, and are left to the client."""
    address = urlsplit(endpoint)
    if address.scheme in urllib.request.getproxies():
        return True
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname, port), CONNECT_S).close()
    except OSError:
        return False
    return True
