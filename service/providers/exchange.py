"""One question to a provider about a pair of keys, and what its answer can mean.

Only three answers say something about the keys: 200, 401, 403. Every other outcome is an error of its own
kind, so that a provider's trouble is never taken for a bad key.
"""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from service import tracing
from service.errors import InvalidInput, ProviderRefused, ProviderThrottled, ProviderUnavailable
from service.http_clients import read_limited, retry_after
from service.memory.plaintext import Plaintext
from service.memory.zeroing import wipe_stack

logger = logging.getLogger(__name__)

_MAX_BODY = 65_536  # what is asked for takes about 2 kB
_PRINTABLE = re.compile(rb"[\x20-\x7e]+")
_SPOKEN_OF_KEYS = (200, 401, 403)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that can say something about the keys: its status is 200, 401 or 403."""

    status: int
    body: bytes = field(repr=False)  # holds a person's account data

    def json_object(self) -> dict[str, Any] | None:
        """The body, where it is a JSON object; None where it is anything else."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None


async def ask(
    client: httpx.AsyncClient, url: str, make_headers: Callable[[], dict[str, str]], *, provider: str
) -> Answer:
    """Sends one GET, once, and reads its answer. The whole takes at most the client's read time-out.

    `make_headers` is called at the last moment: what it makes are strings, which nobody can wipe, so they live
    in one frame below this one, and no error that is raised here refers to that frame or to the request.

    Raises:
        ProviderThrottled: 429; with the seconds to wait, where the provider gave them.
        ProviderRefused: a redirect, or another status that is about the question and not about the keys.
        ProviderUnavailable: 5xx, no connection, no answer in time, a body that is too large.
    """
    with tracing.span("provider ask") as span:
        outcome = await _exchange(client, url, make_headers)
        if isinstance(outcome, Answer):
            span.note("http.response.status_code", outcome.status)
    if isinstance(outcome, ProviderUnavailable):
        logger.warning("%s could not be asked: %s", provider, outcome)
        raise outcome
    return outcome


async def _exchange(
    client: httpx.AsyncClient, url: str, make_headers: Callable[[], dict[str, str]]
) -> Answer | ProviderUnavailable:
    try:
        async with asyncio.timeout(client.timeout.read):
            async with _streamed(client, url, make_headers) as response:
                if response.status_code not in _SPOKEN_OF_KEYS:
                    return _failure(response)
                return Answer(response.status_code, await read_limited(response, _MAX_BODY))
    except (TimeoutError, httpx.TimeoutException):
        return ProviderUnavailable("The provider did not answer in time.")
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError):
        return ProviderUnavailable()
    finally:
        # aiohttp composes a request's head in an array on the C stack, and returns without clearing it.
        wipe_stack()


@asynccontextmanager
async def _streamed(
    client: httpx.AsyncClient, url: str, make_headers: Callable[[], dict[str, str]]
) -> AsyncIterator[httpx.Response]:
    # The request is no local of a frame that waits: its `vars` show the headers, of which httpx masks only one.
    response = await client.send(client.build_request("GET", url, headers=make_headers()), stream=True)
    try:
        yield response
    finally:
        try:
            await response.aclose()
        finally:
            # httpx's response and its stream hold each other, and the request with its headers. Parted, all of it is
            # freed at once, and so wiped, and not when the garbage collector comes by.
            del response.stream


def _failure(response: httpx.Response) -> ProviderUnavailable:
    if response.status_code == 429:
        return ProviderThrottled(retry_after=retry_after(response))
    if response.status_code >= 500:
        return ProviderUnavailable(retry_after=retry_after(response))
    return ProviderRefused()


def is_success(status: int) -> bool:
    """Whether this status says that a call was done: 2xx."""
    return 200 <= status < 300


def header_text(key: Plaintext, field_name: str) -> str:
    """A key as a header's value. Never sends what isn't printable ASCII: CR or LF would begin another header.

    Raises InvalidInput, which names the field and not the key.
    """
    with key.reveal() as value:
        if value and _PRINTABLE.fullmatch(value):
            return str(value, "ascii")
    raise InvalidInput(field_name, "must be printable ASCII")
