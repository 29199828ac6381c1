"""Requests to Vault: the token, the namespace, the one translation of Vault's answers into `errors.py`, and repeats.

`VaultClient.request` is what everything here goes through. hvac builds the calls that aren't secret (`HvacAdapter`);
its own adapters are synchronous, ours hands back a coroutine, which hvac's methods pass on as they are.
"""

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote

import httpx
import hvac.adapters
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from service import tracing
from service.correlation import vault_headers
from service.errors import (
    CasMismatch,
    CredentialsError,
    VaultDenied,
    VaultLoginFailed,
    VaultRefused,
    VaultSealed,
    VaultStandby,
    VaultThrottled,
    VaultUnavailable,
)
from service.http_clients import retry_after
from service.measures import Measures

NOT_VAULT = "What answers at VAULT_ADDR is not Vault"
_PATH = re.compile(r"[A-Za-z0-9._~=@+-]+(/[A-Za-z0-9._~=@+-]+)*/?")
_HEALTH = {"standbyok": "true", "perfstandbyok": "true", "sealedcode": "200", "uninitcode": "200"}
_WAIT_FOR_UNSEAL = 10.0
_WAIT_FOR_FAULT = 2.0
_FIRST_WAIT = 0.05
_Answer = TypeVar("_Answer")


OPERATIONS = frozenset({"data", "metadata", "destroy", "hmac", "verify", "sign", "keys"})
"""Words in the paths that `VaultClient.request` is asked for. What goes over the wire says what it is."""


class VaultNotFound(VaultRefused):
    """Nothing at this path. Stays within `vault/`: each caller knows what it means."""


FAILURES: dict[type[BaseException], str] = {
    VaultUnavailable: "unavailable",
    VaultSealed: "sealed",
    VaultStandby: "standby",
    VaultThrottled: "throttled",
    VaultDenied: "denied",
    VaultLoginFailed: "denied",
    VaultRefused: "refused",
}
"""What counts as a failure. What says something about one path, and not about Vault, doesn't: not found, `cas`."""


class TokenSource(Protocol):
    """Where the token comes from: `login.VaultSession`."""

    async def token(self) -> str: ...
    async def replace(self, refused: str) -> bool: ...


async def send(
    http: httpx.AsyncClient,
    method: str,
    path: str,
    *,
    params: Mapping[str, Any] | None = None,
    json: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """One request, once. Returns the answer's JSON, `{}` for an empty one.

    Raises what the answer means. The exceptions hold nothing of the request or the answer: httpx's carry the request
    with its token, so they are not chained.
    """
    check_path(path)
    try:
        # httpx bounds each step; a server that sends a byte at a time would never end one.
        async with asyncio.timeout(http.timeout.read):
            response = await http.request(
                method, f"/v1/{path}", params=params, json=json, headers={"X-Vault-Request": "true", **(headers or {})}
            )
    except (httpx.HTTPError, TimeoutError):
        raise VaultUnavailable(retry_after=_WAIT_FOR_FAULT) from None
    if response.is_success:
        return _json(response) if response.content else {}
    raise _meaning_of(response)


def check_path(path: str) -> None:
    """Refuses, as VaultRefused, what no path that is used here looks like."""
    if not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        # Nothing here writes such a path: it came from a row, an intent or a name in KV that somebody made by hand.
        raise VaultRefused("A path in Vault is not one that this service uses")


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except ValueError:
        raise VaultUnavailable(NOT_VAULT) from None
    if not isinstance(answer, dict):
        raise VaultUnavailable(NOT_VAULT)
    return answer


def data_of(answer: Mapping[str, Any]) -> dict[str, Any]:
    """What an answer brings. Raises VaultUnavailable where it brings nothing: a proxy's page, say, and not Vault's."""
    data = answer.get("data")
    if not isinstance(data, dict):
        raise VaultUnavailable(NOT_VAULT)
    return data


def told_by(answer: Mapping[str, Any]) -> str:
    """What Vault says is wrong, in its own words: for telling errors apart, never for showing."""
    errors = answer.get("errors")
    return " ".join(str(item) for item in errors) if isinstance(errors, list) else ""


def _meaning_of(response: httpx.Response) -> CredentialsError:
    told: str | None = None
    with suppress(VaultUnavailable):
        told = told_by(_json(response))
    return meaning(response.status_code, retry_after(response), told)


def meaning(status: int, after: float | None, told: str | None) -> CredentialsError:
    """What an answer that is no success means (https://developer.hashicorp.com/vault/api-docs#http-status-codes).

    `after`: the seconds that Retry-After asks for. `told`: what Vault says is wrong; None where the answer is no JSON
    object, and so not Vault's.
    """
    if status == 307:  # a standby that can't forward names the active node instead; no redirect is followed
        return VaultStandby(retry_after=_WAIT_FOR_FAULT)
    if status == 429:  # Vault's own quota, or the limit of a load balancer before it
        return VaultThrottled(retry_after=after or 1.0)
    if told is None:
        return VaultUnavailable(NOT_VAULT) if status < 500 else VaultUnavailable(retry_after=after or _WAIT_FOR_FAULT)
    match status:
        case 400 if "check-and-set" in told:
            return CasMismatch()
        case 400 | 405:
            return VaultRefused()
        case 403:
            return VaultDenied()
        case 404:
            return VaultNotFound()
        case 472 | 473:
            return VaultStandby(retry_after=_WAIT_FOR_FAULT)
        case 503 if "sealed" in told.lower():
            return VaultSealed(retry_after=_WAIT_FOR_UNSEAL)
        case 500 if "not active" in told or "standby" in told:
            return VaultStandby(retry_after=_WAIT_FOR_FAULT)
        case _ if status >= 500 or status == 412:
            return VaultUnavailable(retry_after=after or _WAIT_FOR_FAULT)
        case _:
            return VaultRefused()


class VaultClient:
    """Vault, as the service's own login.

    Guarantees: a refused token is replaced once, by one login that all callers share; what is `repeatable` is tried
    again, with jittered back-off, after faults that pass by themselves. Does not: repeat anything else, nor wait for
    a sealed Vault.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        session: TokenSource,
        *,
        namespace: str | None,
        retries: int,
        measures: Measures | None = None,
    ) -> None:
        """`measures`: where requests are counted."""
        self._measures = measures or Measures()
        self._http = http
        self._session = session
        self._namespace = {"X-Vault-Namespace": namespace} if namespace else {}
        self._retries = retries

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool,
    ) -> dict[str, Any]:
        """A request under the service's token; `path` without `/v1/`. Raises as `send`."""
        return await self.with_token(
            lambda token: send(
                self._http,
                method,
                path,
                params=params,
                json=json,
                headers={**self._namespace, **vault_headers(), **(headers or {}), "X-Vault-Token": token},
            ),
            repeatable=repeatable,
            operation=operation_of(method, path),
        )

    async def with_token(
        self, ask: Callable[[str], Awaitable[_Answer]], *, repeatable: bool, operation: str = "other"
    ) -> _Answer:
        """What `ask` returns for the service's token. It is called again with another token where Vault refuses this
        one, and, if it is `repeatable`, after faults that pass by themselves. `operation`: what each try is counted as.
        """

        async def attempt() -> _Answer:
            token = await self._token()
            try:
                return await self._measured(ask(token), operation)
            except VaultDenied:
                # An expired or revoked token answers 403 as a missing right does, and neither has done anything.
                if not await self._session.replace(token):
                    raise
            return await self._measured(ask(await self._token()), operation)

        return await (self._repeated(attempt) if repeatable else attempt())

    async def _token(self) -> str:
        try:
            return await self._session.token()
        except CredentialsError as error:
            if (failure := FAILURES.get(type(error))) is not None:
                self._measures.vault_failures.add(("login", failure))
            raise

    async def _measured(self, asking: Awaitable[_Answer], operation: str) -> _Answer:
        began, failure = time.perf_counter(), None
        try:
            with tracing.span(f"vault {operation}"):
                return await asking
        except CredentialsError as error:
            failure = FAILURES.get(type(error))
            raise
        finally:
            self._measures.vault_answered(operation, began, failure)

    async def _repeated(self, attempt: Callable[[], Awaitable[_Answer]]) -> _Answer:
        # The first try is made here: nearly always it is the only one, and tenacity's work would be a fifth of it.
        try:
            return await attempt()
        except VaultUnavailable as error:
            if not self._retries or not _passes_by_itself(error):
                raise
        await asyncio.sleep(random.uniform(0, _FIRST_WAIT))  # noqa: S311 - not a secret
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._retries),
            wait=wait_random_exponential(multiplier=2 * _FIRST_WAIT, max=1),
            retry=retry_if_exception(_passes_by_itself),
            reraise=True,
        )
        return await retrying(attempt)

    async def health(self) -> None:
        """Raises VaultSealed, VaultStandby or VaultUnavailable unless this Vault can serve. Needs no token."""
        # A performance or DR standby that forwards is as good as the active node.
        answer = await send(self._http, "GET", "sys/health", params=_HEALTH)
        if not answer.get("initialized") or answer.get("sealed"):
            raise VaultSealed(retry_after=_WAIT_FOR_UNSEAL)


def operation_of(method: str, path: str) -> str:
    """What a request is counted as: its engine's word for it, of a fixed set."""
    word = next((word for word in path.split("/")[1:] if word in OPERATIONS), None)
    if word in ("data", "metadata"):
        return "kv_read" if method in ("GET", "LIST") else "kv_write"
    return word or "other"


def _passes_by_itself(error: BaseException) -> bool:
    return isinstance(error, VaultUnavailable) and not isinstance(error, VaultSealed)


class HvacAdapter(hvac.adapters.Adapter):  # type: ignore[misc]  # hvac has no types
    """Lets hvac's classes build calls, and sends them by `VaultClient`; what they return is a coroutine."""

    def __init__(self, client: VaultClient) -> None:
        # Not the base class's: it makes a `requests` session and reads the environment, and neither is used here.
        self._client = client

    def request(self, method: str, url: str, headers: Any = None, raise_exception: bool = True, **kwargs: Any) -> Any:  # noqa: ARG002
        """`url` is a path from `/v1/`. Only reads are repeated: whether a write may be, hvac doesn't know."""
        return self._client.request(
            method.upper(),
            unquote(url.removeprefix("/v1/")),  # hvac has quoted it; `send` refuses what would need quoting
            params=kwargs.get("params"),
            json=kwargs.get("json"),
            headers=headers,
            repeatable=method.lower() in ("get", "list"),
        )

    def get_login_token(self, response: Any) -> str:
        """hvac's logins work on the answer at once, which a coroutine isn't: `login.py` asks Vault directly."""
        raise NotImplementedError
