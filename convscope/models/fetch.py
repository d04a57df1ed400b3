"""Weights that have to be fetched: no long wait for a server that does not answer, and one line with the remedies."""

from __future__ import annotations

import pickle
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from safetensors import SafetensorError

from convscope.errors import ModelError

PATIENCE = 5.0  # seconds for a server's first answer
UNREADABLE = (OSError, EOFError, pickle.UnpicklingError, SafetensorError)  # files that are not there, or damaged


def silence(url: str) -> str:
    """Why no connection to a server comes about; "" where there is one, whatever it answers."""
    try:
        urlopen(Request(url, method="HEAD"), timeout=PATIENCE).close()
        return ""
    except (HTTPError, ValueError):  # it answers; or the address is odd, which is for its library to say
        return ""
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        # A library may bring certificates that Python lacks.
        return "" if isinstance(reason, ssl.SSLError) else f"{urlsplit(url).netloc} does not answer: {one_line(reason)}"


@contextmanager
def hub_cache() -> Iterator[None]:
    """The Hugging Face cache alone, where its server does not answer: huggingface_hub would retry for a minute."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    reason = "" if before else silence(constants.ENDPOINT)
    constants.HF_HUB_OFFLINE = before or bool(reason)
    try:
        yield
    except OSError as error:
        raise ConnectionError(reason or one_line(error.__cause__ or error)) from None
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def fetching(what: str, remedy: str) -> Iterator[None]:
    """What cannot be fetched, read or fitted to its network: one line with the remedies."""
    try:
        with redirect_stdout(sys.stderr):  # torch.hub says there that it downloads; stdout is for results
            yield
    except (*UNREADABLE, RuntimeError) as error:
        raise ModelError(
            f"the trained weights of {what} could not be loaded ({one_line(error)}). "
            f"Connect to the internet, or {remedy}"
        ) from None


def without_them(what: str) -> str:
    """What can be done about a model that has no trained weights here."""
    return f"pass your own with --weights FILE, or write {what}@random to look at the untrained network"


def one_line(error: object) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split())[:160] or type(error).__name__
