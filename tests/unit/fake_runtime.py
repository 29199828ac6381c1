"""The application around parts that a test sets. They stand for no Vault and no Postgres: they note calls, or raise."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import MISSING, fields
from typing import Any, cast

import httpx

from service.app import create_app
from service.authz.policy import Identity
from service.composition import Runtime
from service.errors import AuthenticationFailed
from service.modules.rate_limits import RateLimits
from service.settings import Settings

PARTS = tuple(
    each.name for each in fields(Runtime) if each.name not in ("settings", "identity") and each.default is MISSING
)
"""The runtime's parts that have to be there."""

USER = {"Authorization": "Bearer user-token"}


class Tokens:
    """In the verifier's place: knows tokens by their text."""

    def __init__(self, known: dict[str, Identity]) -> None:
        self._known = known

    async def verify(self, token: str) -> Identity:
        if token not in self._known:
            raise AuthenticationFailed
        return self._known[token]


class Part:
    """In a domain part's place: each method notes its call, then raises what the test set, or returns it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.result: Any = None

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            if callable(self.result) and not isinstance(self.result, BaseException):
                return self.result(*args, **kwargs)
            if isinstance(self.result, BaseException):
                raise self.result
            return self.result

        return call


def settings(**given: Any) -> Settings:
    return Settings(database_url="postgresql://nowhere", vault_addr="https://nowhere", **given)


@asynccontextmanager
async def client_of(
    part: Part, identities: dict[str, Identity] | None = None, **given: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application, in this process, with `part` for every part of the runtime."""
    verifier = None if identities is None else Tokens(identities)
    parts: dict[str, Any] = dict.fromkeys(PARTS, part) | {"rate_limits": RateLimits(settings(**given))}
    app = create_app(runtime=Runtime(settings=settings(**given), identity=cast(Any, verifier), **parts))
    transport = httpx.ASGITransport(app)  # an exception that leaves the application fails the test
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service.test") as client,
    ):
        yield client
