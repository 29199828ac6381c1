"""The service as the client's unit tests have it: a transport that answers what it is told to."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import uuid4

import httpx

from service.client import CredentialsClient, VaultOptions, tls_context
from service.schemas.credential_metadata import CredentialMetadata
from tests.evidence import TESTS

ID = str(uuid4())
Outcome = httpx.Response | Exception
Doing = Callable[[CredentialsClient], Awaitable[object]]
PROBLEM = "urn:vault-credentials:error:"


def told(status: int, name: str, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"type": PROBLEM + name}, headers=headers)


def metadata(**changes: Any) -> dict[str, Any]:
    empty = dict.fromkeys(CredentialMetadata.model_fields)
    known = {
        "id": ID,
        "account_id": ID,
        "credential_type": "alpaca",
        "is_active": True,
        "created_at": "2026-01-01T00:00:00Z",
    }
    more = {"updated_at": "2026-01-01T00:00:00Z", "user_id": "alice", "validation_state": "valid", "secret_version": 1}
    return {**empty, **known, **more, "transit_key": "k", "transit_key_version": 1, "can_roll_back": False, **changes}


class Service(httpx.AsyncBaseTransport):
    """Answers what it is told to, one after the other, the last again and again."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = list(outcomes)
        self.seen: list[httpx.Request] = []
        self.tokens: list[str] = []
        self.bodies: list[bytes] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        self.tokens.append(request.headers["authorization"])
        assert isinstance(request.stream, httpx.AsyncByteStream)
        self.bodies.append(b"".join([bytes(part) async for part in request.stream]))
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return httpx.Response(outcome.status_code, headers=outcome.headers, stream=Piece(outcome.content))


class Piece(httpx.AsyncByteStream):
    """An answer's body, as the network would bring it."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body


_TLS = tls_context()  # it takes a while to make one


def client_of(service: httpx.AsyncBaseTransport, **options: Any) -> CredentialsClient:
    given: dict[str, Any] = {
        "token": lambda: "token",
        "max_retry_wait": 5.0,
        "tls": _TLS,
        "vault": VaultOptions(tls=_TLS),
    } | options
    return CredentialsClient("https://service.test", transport=service, **given)


GET = httpx.Response(200, json=metadata())
"""A credential, to be answered as often as one likes."""


def held_by_frames(error: BaseException) -> list[object]:
    """The locals of every frame that it came through, but for the tests'."""
    held: list[object] = []
    at = error.__traceback__
    while at is not None:
        if not at.tb_frame.f_code.co_filename.startswith(TESTS):
            held += at.tb_frame.f_locals.values()
        at = at.tb_next
    return held
