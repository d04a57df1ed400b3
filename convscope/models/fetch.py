"""Weights that have to be fetched: no long wait for a server that does not answer, and one line with the remedies."""

from __future__ import annotations

import pickle
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from safetensors import SafetensorError

from convscope.errors import ModelError

PATIENCE = 5.0  # seconds for a server's first answer
UNREADABLE = (OSError, EOFError, pickle.UnpicklingError, SafetensorError)  # files that are not there, or damaged


def silence(url: str) -> str:
    """Why no connection to a server comes about; "" where there is one, whatever it answers."""
    host = url.split("/")[2]
    try:
        urlopen(Request(url, method="HEAD"), timeout=PATIENCE).close()
    except HTTPError:
        return ""
    except URLError as error:
        return "" if isinstance(error.reason, ssl.SSLError) else f"{host} does not answer: {one_line(error.reason)}"
    except (OSError, HTTPException) as error:
        return f"{host} does not answer: {one_line(error)}"
    return ""


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
        raise ConnectionError(reason or one_line(error)) from None
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def fetching(what: str, remedy: str) -> Iterator[None]:
    """Trained weights that cannot be fetched, read or fitted: one line with the remedies."""
    try:
        with redirect_stdout(sys.stderr):  # torch.hub says there that it downloads; stdout is for results
            yield
    except (*UNREADABLE, RuntimeError) as error:
        raise ModelError(
            f"the trained weights of {what} could not be loaded ({one_line(error)}). Connect to the internet, or {remedy}, "
            f"or pass a checkpoint of your own with --weights FILE, or write {what}@random to look at the untrained network"
        ) from None


def one_line(error: object) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split())[:160] or type(error).__name__
