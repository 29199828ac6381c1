"""Requests to the service: the caller's token, time-outs, repeats of reads, and errors as exceptions.

httpx hangs the request, headers and token included, on every exception it raises. None of its exceptions leaves this
module, nor is one chained to ours; a cancellation leaves without the frames it came through. Once a request's head has
been sent, httpx's object of it has the token no longer; httpcore's own copy lives as long as the answer is being read.
"""

import asyncio
import inspect
import random
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, TypeVar

import httpx

from service.client.problems import error_of
from service.client.secret_body import SecretBody
from service.errors import (
    ConfigurationError,
    CredentialsError,
    ServiceOutcomeUnknown,
    ServiceUnavailable,
    UnexpectedAnswer,
    again,
)
from service.http_fields import USER_AGENT, retry_after_seconds

TokenSource = Callable[[], str | Awaitable[str]]
"""Gives a bearer token for one request: a function, or a coroutine function."""

MAX_ANSWER = 8 * 1024 * 1024
"""Bytes of an answer of the service's own."""

ANSWERED_BY = "X-Answered-By"
READS = frozenset({"GET", "HEAD"})

_BEARER = re.compile(r"[A-Za-z0-9\-._~+/]+=*")  # RFC 6750, 2.1
_WORTH_REPEATING = (429, 502, 503)
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_FIRST_WAIT = 0.1
_KEEPALIVE = 15.0  # the service closes what has been idle for 30 s
_Read = TypeVar("_Read")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, read to its end."""

    status: int
    headers: httpx.Headers
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, as often as it may be sent."""

    method: str
    path: str
    headers: Mapping[str, str | bytes] = field(default_factory=dict)
    """Text is ASCII, looked at by whoever makes this."""
    params: Mapping[str, Any] | None = None
    content: SecretBody | AsyncIterator[bytes] | bytes | None = field(default=None, repr=False)
    changes: bool = True
    """Whether it matters if it was done: for what is neither GET nor HEAD, when no answer comes."""
    timeout: float | None = None
    """Seconds; by default the exchange's."""

    @property
    def may_be_repeated(self) -> bool:
        """GET and HEAD alone, and never a body that can be read once."""
        return self.method in READS and self.content is None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeOptions:
    """How requests are sent."""

    timeout: float
    retries: int
    max_wait: float
    """Seconds between two tries, at most; an answer that asks for longer is not waited for."""
    max_connections: int
    """For calls, and as many for streams."""
    tls: ssl.SSLContext | bool
    transport: httpx.AsyncBaseTransport | None


class Exchange:
    """One caller of one service.

    Guarantees: the token is asked for anew for every request, and kept by nothing but that request; it goes to the
    service's address alone (no redirect is followed, no proxy of the environment's used); each try ends within the
    time-out; nothing but GET and HEAD is sent twice. Does not: know what the paths mean.
    """

    def __init__(self, base_url: str, token: TokenSource, options: ExchangeOptions) -> None:
        self._token = token
        self._options = options
        # In front of httpx's pool, which goes through all that waits in it whenever something changes.
        self._free = asyncio.Semaphore(options.max_connections)
        self._free_streams = asyncio.Semaphore(options.max_connections)
        limits = httpx.Limits(
            max_connections=2 * options.max_connections,
            max_keepalive_connections=options.max_connections,
            keepalive_expiry=_KEEPALIVE,
        )
        self._http = httpx.AsyncClient(
            base_url=base_url,
            transport=options.transport,
            verify=options.tls,
            limits=limits,
            follow_redirects=False,
            trust_env=False,
            headers={"User-Agent": USER_AGENT, "Accept": "application/json", "Accept-Encoding": "identity"},
            cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
        )

    async def call(self, call: Call) -> Answer:
        """Sends it, and returns an answer that is a success.

        Raises what the service's problem document says; ServiceUnavailable, ServiceOutcomeUnknown, UnexpectedAnswer.
        """
        answer = await self.ask(call)
        if 200 <= answer.status < 300:
            return answer
        raise refusal(answer.status, answer.body, answer.headers)

    async def ask(self, call: Call, *, limit: int = MAX_ANSWER) -> Answer:
        """As `call`, whatever the answer's status. UnexpectedAnswer where it has more than `limit` bytes."""

        async def read(response: httpx.Response) -> Answer:
            try:
                return Answer(response.status_code, response.headers, await read_body(response, limit))
            finally:
                await response.aclose()

        async with self._slot(self._free, call):
            outcome = await self._tried(call, read)
        if isinstance(outcome, CredentialsError):
            raise outcome
        return outcome

    @asynccontextmanager
    async def streamed(self, call: Call) -> AsyncIterator[httpx.Response]:
        """As `ask`, but the body is still to be read, by `parts`: the time-out is for the head, then for each part."""

        async def opened(response: httpx.Response) -> httpx.Response:
            return response

        async with self._slot(self._free_streams, call):
            outcome = await self._tried(call, opened)
            if isinstance(outcome, CredentialsError):
                raise outcome
            try:
                yield outcome
            finally:
                await outcome.aclose()

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    @asynccontextmanager
    async def _slot(self, free: asyncio.Semaphore, call: Call) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout(call)):
                await free.acquire()
        except TimeoutError:
            raise ServiceUnavailable("Too many of this client's own requests are under way.") from None
        try:
            yield
        finally:
            free.release()

    def _timeout(self, call: Call) -> float:
        return self._options.timeout if call.timeout is None else call.timeout

    # --- tries ----------------------------------------------------------------------------------------------------

    async def _tried(
        self, call: Call, finish: Callable[[httpx.Response], Awaitable[_Read]]
    ) -> _Read | CredentialsError:
        tries = 0
        while True:
            outcome = await self._once(call, finish)
            wait = self._wait_before_next(call, outcome, tries)
            if wait is None:
                return outcome
            if isinstance(outcome, httpx.Response):
                await outcome.aclose()
            tries += 1
            await asyncio.sleep(wait)

    def _wait_before_next(self, call: Call, outcome: object, tries: int) -> float | None:
        """Seconds, or None where this was the last try."""
        if not call.may_be_repeated or tries >= self._options.retries:
            return None
        # Full jitter, so that callers whom one fault has hit don't come back together.
        wait: float = random.uniform(0, _FIRST_WAIT * 2**tries)  # noqa: S311 - no secret
        if isinstance(outcome, ServiceUnavailable):
            return min(wait, self._options.max_wait)
        if not isinstance(outcome, Answer | httpx.Response):
            return None
        status = outcome.status if isinstance(outcome, Answer) else outcome.status_code
        if status not in _WORTH_REPEATING or is_providers(outcome.headers):
            return None
        wait += retry_after_seconds(outcome.headers.get("retry-after", "")) or 0.0
        return wait if wait <= self._options.max_wait else None

    async def _once(self, call: Call, finish: Callable[[httpx.Response], Awaitable[_Read]]) -> _Read | CredentialsError:
        """One try. What it came to is returned and not raised, so that nothing is chained to it."""
        request = await self._authorised(call)
        try:
            async with asyncio.timeout(self._timeout(call)):
                response = await self._http.send(request, stream=True)
                del request.headers["Authorization"]  # whoever holds the answer holds its request
                return await finish(response)
        except _NOT_SENT:
            return ServiceUnavailable()
        except (httpx.HTTPError, httpx.StreamError, OSError, TimeoutError):
            return lost(call)
        except UnexpectedAnswer as error:
            return again(error)  # without the frames that it came through
        except BaseException as error:
            # A cancellation, most likely. Reports of it would show the frames of what was sending the request.
            request.headers.pop("Authorization", None)
            error.__traceback__ = error.__context__ = error.__cause__ = None
            raise

    async def _authorised(self, call: Call) -> httpx.Request:
        """The request, with a token. What the caller's function raises is raised as it is."""
        timeout = self._timeout(call)
        request = self._http.build_request(
            call.method,
            call.path,
            params=call.params,
            headers=_encoded({**call.headers, **_length_of(call.content)}),
            content=call.content,
            timeout=httpx.Timeout(timeout, connect=timeout / 2),
        )
        try:
            async with asyncio.timeout(timeout):
                request.headers["Authorization"] = _bearer(await self._asked())
        except TimeoutError:
            raise ServiceUnavailable("No token came in time; nothing was sent.") from None
        return request

    async def _asked(self) -> object:
        given = self._token()
        return await given if inspect.isawaitable(given) else given


def refusal(status: int, body: bytes, headers: httpx.Headers) -> CredentialsError:
    """What an answer means that is not what was asked for: the service's error, or another program's answer."""
    if status < 400:  # a redirect; or, to a proxied call, a success that is not the provider's
        return UnexpectedAnswer()
    return error_of(status, body, retry_after_seconds(headers.get("retry-after", "")))


def is_providers(headers: httpx.Headers) -> bool:
    """Whether a proxied answer is the provider's own, an error of its included."""
    return bool(headers.get(ANSWERED_BY) == "provider")


def lost(call: Call) -> CredentialsError:
    """What it means that a call was sent and no whole answer came."""
    return ServiceOutcomeUnknown() if call.changes and call.method not in READS else ServiceUnavailable()


async def read_body(response: httpx.Response, limit: int) -> bytes:
    """All of an answer's body, as it was sent: nothing is unpacked, which could be many times larger.

    Raises UnexpectedAnswer where it has more than `limit` bytes; httpx's own errors.
    """
    body = bytearray()
    async for part in response.aiter_raw():
        if len(body) + len(part) > limit:
            raise UnexpectedAnswer("The answer is larger than this client takes.")
        body += part
    return bytes(body)


async def parts(response: httpx.Response, call: Call) -> AsyncIterator[bytes]:
    """The body of a streamed answer, as it comes and was sent. Raises as `lost` where it breaks off."""
    reading = response.aiter_raw()
    while True:
        try:
            part = await anext(reading)
        except StopAsyncIteration:
            return
        except (httpx.HTTPError, httpx.StreamError, OSError):
            break
        yield part
    raise lost(call)


def _encoded(headers: Mapping[str, str | bytes]) -> list[tuple[bytes, bytes]]:
    return [
        (name.encode("ascii"), value.encode("ascii") if isinstance(value, str) else value)
        for name, value in headers.items()
    ]


def _length_of(content: object) -> dict[str, str]:
    # Else httpx would send it in chunks.
    return {"Content-Length": str(len(content))} if isinstance(content, SecretBody) else {}


def _bearer(given: object) -> str:
    if isinstance(given, str) and _BEARER.fullmatch(given):
        return f"Bearer {given}"
    del given
    raise ConfigurationError("token: what the function gives is no bearer token")
