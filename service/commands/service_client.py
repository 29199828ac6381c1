"""The running service, over REST, as the commands ask it: where it is, whose token, and what it answers."""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
from pydantic import BaseModel, ValidationError

from service.addresses import http_url
from service.commands.options import need_local_extra
from service.errors import ConfigurationError, CredentialsError
from service.http_clients import service_client
from service.settings import load_provider_settings

_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")  # RFC 6750, 2.1
_PROBLEM_PREFIX = "urn:vault-credentials:error:"


class ServiceProblem(CredentialsError):
    """The service refused, or could not do it. The message is in the service's own words, without control characters.

    `name` is the problem's (`key-not-found`), empty where there is none; `document` is all of what was answered.
    """

    def __init__(self, message: str | None = None, *, name: str = "", document: dict[str, Any] | None = None) -> None:
        self.name = name
        self.document = document or {}
        super().__init__(message)


class ServiceUnreachable(ServiceProblem):
    """The service does not answer, or can't at the moment."""


@dataclass(frozen=True)
class Target:
    """Where the service is, and how to come by a token for it. The token is in no `repr`."""

    url: str
    token: Callable[[], str]
    may_be_renewed: bool  # whether asking for the token again brings another one

    def __repr__(self) -> str:
        return f"Target(url={self.url!r})"


def find_target(url: str | None, token: str | None, state_dir: Path) -> Target:
    """The service at `url`, with `token`; each of them not given is the local stack's that runs in this folder.

    A token is minted for that stack's own service alone: any other address would be given what it could use there.

    Raises:
        ConfigurationError: the address is no address, or plain http to another machine; the token is none; or there is
            no token and no local stack to mint one.
    """
    if url is not None:
        try:
            url = http_url(url, allow_plain=load_provider_settings().allow_plain_http)
        except ValueError as error:
            raise ConfigurationError(f"SERVICE_URL: {error}") from None
    if token:
        if not _TOKEN.fullmatch(token.strip()):
            raise ConfigurationError("CREDENTIALS_TOKEN: is no bearer token")
        given = token.strip()
        return Target(url or _local_url(state_dir), lambda: given, may_be_renewed=False)
    try:
        local = _local_url(state_dir)
    except ConfigurationError:
        if url is None:
            raise
        local = None
    if local is None or url not in (None, local):
        raise ConfigurationError("CREDENTIALS_TOKEN: is not set, and SERVICE_URL is no running local stack's service")
    return Target(local, lambda: _minted(state_dir), may_be_renewed=True)


def _local_url(state_dir: Path) -> str:
    try:
        need_local_extra()
    except ConfigurationError:
        raise ConfigurationError("SERVICE_URL and CREDENTIALS_TOKEN: say where the service is, and who asks") from None
    from service.localstack.stack import noted_environment

    url = noted_environment(state_dir).get("SERVICE_URL")
    if url is None:
        raise ConfigurationError("SERVICE_URL: is not set, and the local stack runs without the service")
    return url


def _minted(state_dir: Path) -> str:
    from service.localstack.stack import mint_token

    return mint_token(state_dir, "operator", "local-operator")


class ServiceClient:
    """One caller of the service.

    Guarantees: the token goes to the target alone (no redirect is followed) and is in no message. Does not: send
    anything twice, but for a request that was refused because a minted token had expired.
    """

    def __init__(self, http: httpx.AsyncClient, target: Target) -> None:
        self._http = http
        self._target = target
        self._token: str | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, target: Target) -> AsyncIterator[Self]:
        """Connections are made when first needed, and closed when the block ends."""
        async with service_client(target.url) as http:
            yield cls(http, target)

    async def call(
        self, method: str, path: str, *schemas: type[BaseModel], body: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """One request; the status and the JSON object of an answer that is a success, as one of these schemas, or
        nothing where none is given.

        Raises:
            ServiceProblem: it was refused, or what answers is another program. ServiceUnreachable: no answer now.
        """
        response = await self._send(method, path, body)
        if response.status_code == httpx.codes.UNAUTHORIZED and self._target.may_be_renewed:
            self._token = None
            response = await self._send(method, path, body)
        if not schemas and response.status_code == httpx.codes.NO_CONTENT:
            return response.status_code, {}
        document: Any = None
        with suppress(ValueError):
            document = response.json()
        if response.is_success:
            for schema in schemas:
                with suppress(ValidationError):
                    return response.status_code, schema.model_validate(document).model_dump()
            document = None
        raise _problem(response.status_code, document)

    async def _send(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        if self._token is None:
            self._token = self._target.token()
        try:
            return await self._http.request(method, path, json=body, headers={"Authorization": f"Bearer {self._token}"})
        except httpx.HTTPError:
            raise ServiceUnreachable(f"no answer from the service at {plain(self._target.url)}") from None


def plain(value: object) -> str:
    """The value as text that does nothing to a terminal: whatever does not show is a question mark."""
    return "".join(each if each.isprintable() else "?" for each in str(value))


def _problem(status: int, document: Any) -> ServiceProblem:
    kind = ServiceUnreachable if status in (502, 503, 504) else ServiceProblem
    if not isinstance(document, dict) or not isinstance(document.get("title"), str):
        return kind(f"what answers there with {status} is not this service")
    told = [plain(document["title"])]
    refused = document.get("errors")
    for each in refused if isinstance(refused, list) else ():
        if isinstance(each, dict):
            told.append(f"{plain(each.get('field'))}: {plain(each.get('problem'))}")
    name = str(document.get("type", "")).removeprefix(_PROBLEM_PREFIX)
    return kind(" ".join(told), name=plain(name), document=document)
