"""The client of an orchestrator, or of anybody else whom the service lets in: typed, one method for each thing."""

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Self, TypeVar, Unpack
from uuid import UUID

import httpx
from pydantic import BaseModel, SecretStr

from service.client.answers import KnownCredential, known, next_cursor, read_as
from service.client.exchange import (
    MAX_ANSWER,
    Answer,
    Call,
    Exchange,
    ExchangeOptions,
    TokenSource,
    is_providers,
    parts,
    refusal,
)
from service.client.hand_offs import HandOffs
from service.client.proxied import CallOptions, ProviderAnswer, ProviderStream, proxied_call
from service.client.requests import (
    CREDENTIALS,
    JSON,
    AccountType,
    Headers,
    address_of,
    headers_for,
    id_of,
    parameters_of,
)
from service.client.secret_body import SecretBody
from service.client.unwrapping import Unwrapper
from service.client.vault_options import VaultOptions, check_verifies, plain_url
from service.errors import ConfigurationError, UnexpectedAnswer
from service.memory.revealed import RevealedSecret
from service.schemas.credential_metadata import CredentialEvent, CredentialPage, EventPage
from service.schemas.credential_schemas import ValidateCredentialResponse
from service.tls import tls_context

_Page = TypeVar("_Page", bound=BaseModel)


class CredentialsClient:
    """One caller of one service, to be used as an asynchronous context manager, in one event loop.

    Guarantees: each request asks `token` for a bearer token, which goes to `base_url` alone, over TLS that is verified
    (plain http to this machine alone); every try ends in time; what fails raises an exception of `service.errors`,
    which holds neither token nor key; reads are tried again where that may help, and nothing else is ever sent twice.
    Does not: use a proxy that the environment names; write log lines of its own (httpx's, at INFO, have addresses).

    Every method takes `user_id`: of orchestrators, the user whom it is done for; of others it is not to be given. Every
    one raises as the service refuses (`CredentialNotFound`, `PermissionDenied`, `Suspended`, `RateLimited`, ...);
    ServiceUnavailable where it doesn't answer and nothing was changed; ServiceOutcomeUnknown where nobody knows whether
    it was; UnexpectedAnswer where something else answers; InvalidInput, before anything is sent, for what can't be.
    """

    def __init__(
        self,
        base_url: str,
        *,
        token: TokenSource,
        vault: VaultOptions | None = None,
        timeout: float = 10.0,
        retries: int = 2,
        max_retry_wait: float = 5.0,
        max_connections: int = 32,
        tls: ssl.SSLContext | None = None,
        allow_plain_http: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Connects when first asked.

        `token`: a function, or a coroutine function, that gives a fresh bearer token. `vault`: where hand-offs may be
        unwrapped. `timeout`: seconds for each try, waiting for a connection included. `retries`: of reads. `tls`: by
        default the system's authorities. `transport`: for tests.

        Raises ConfigurationError for addresses and TLS that can't be, or may not be used.
        """
        try:
            url = plain_url(base_url, allow_plain=allow_plain_http)
        except ValueError:
            raise ConfigurationError(
                "base_url: must be an https address (http: of this machine), and no more"
            ) from None
        given: object = token
        if not callable(given):
            del token, given  # it may be the token itself, and a traceback may show locals
            raise ConfigurationError("token: must be a function that gives a bearer token")
        tls = tls_context() if tls is None else tls
        check_verifies("tls", tls)
        options = ExchangeOptions(
            timeout=timeout,
            retries=retries,
            max_wait=max_retry_wait,
            max_connections=max_connections,
            tls=tls,
            transport=transport,
        )
        self._exchange = Exchange(url, token, options)
        self._unwrapper = Unwrapper(VaultOptions() if vault is None else vault)
        self._hand_offs = HandOffs(self._exchange, self._unwrapper)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes all connections; hand-offs that are being unwrapped end with VaultUnavailable."""
        self._unwrapper.close()
        await self._exchange.aclose()

    # --- the keys themselves --------------------------------------------------------------------------------------

    def credential(
        self,
        credential_id: str | UUID,
        *,
        user_id: str,
        ttl: int = 30,
        require_account_type: AccountType | None = None,
    ) -> AbstractAsyncContextManager[tuple[RevealedSecret, RevealedSecret]]:
        """Has the credential handed off for the length of a block, which gets `(api_key, secret_key)`.

        They come from Vault directly, for a token that is good once, within `ttl` seconds. The two are strings whose
        `repr` is masked. When the block ends, however it ends, they are wiped in place: every reference to them reads
        as NULs. Copies that the block makes (`str.encode`, an f-string) are the block's. What fails once the service
        has handed off, the service is told, for its record.

        Raises beside what all do:
            HandOffAlreadyUsed: Vault knows the token no longer, in its time: somebody else may have the keys.
            HandOffMisdirected: the token, or the place to unwrap it at, isn't what was asked for. Both are for alarms.
            HandOffExpired, HandOffUnreadable.
            VaultUnavailable and its kinds: Vault was asked in vain, and may have unwrapped all the same.
        """
        headers = headers_for(user_id, require_account_type=require_account_type)
        return self._hand_offs.revealed(id_of(credential_id), ttl, headers)

    # --- metadata -------------------------------------------------------------------------------------------------

    async def store(
        self,
        account_id: str | UUID,
        credential_type: str,
        api_key: SecretStr,
        secret_key: SecretStr,
        *,
        user_id: str | None = None,
        idempotency_key: str | None = None,
        require_account_type: AccountType | None = None,
    ) -> KnownCredential:
        """Stores a credential. With the same `idempotency_key` it may be asked for again, and is stored once.

        Raises beside what all do: IdempotencyMismatch, IdempotentResultGone.
        """
        headers = headers_for(user_id, require_account_type=require_account_type, idempotency_key=idempotency_key)
        members = {"account_id": str(account_id), "credential_type": credential_type}
        try:
            body = SecretBody(members, {"api_key": api_key, "secret_key": secret_key})
        finally:
            del api_key, secret_key  # what is no SecretStr, a traceback with locals would show
        with body:
            return known(await self._sent("POST", CREDENTIALS, headers, body))

    async def get(self, credential_id: str | UUID, *, user_id: str | None = None) -> KnownCredential:
        """One credential's metadata."""
        return known(await self._sent("GET", address_of(credential_id), headers_for(user_id)))

    async def list(
        self,
        *,
        user_id: str | None = None,
        account_id: str | UUID | None = None,
        credential_type: str | None = None,
        is_active: bool | None = None,
    ) -> AsyncIterator[KnownCredential]:
        """All credentials' metadata, newest first: a page is asked for when the one before has been used up."""
        wanted = {"account_id": account_id, "credential_type": credential_type, "is_active": is_active}
        async for page in self._pages(CredentialPage, CREDENTIALS, headers_for(user_id), wanted):
            for each in page.credentials:
                yield KnownCredential.model_validate(each.model_dump())

    async def events(
        self, credential_id: str | UUID | None = None, *, user_id: str | None = None
    ) -> AsyncIterator[CredentialEvent]:
        """What was done, or refused, with a credential, or with all that this caller may know of; newest first."""
        path = "/v1/events" if credential_id is None else f"{address_of(credential_id)}/events"
        async for page in self._pages(EventPage, path, headers_for(user_id), {}):
            for each in page.events:
                yield each

    async def update(
        self,
        credential_id: str | UUID,
        *,
        api_key: SecretStr | None = None,
        secret_key: SecretStr | None = None,
        is_active: bool | None = None,
        if_match: str | None = None,
        user_id: str | None = None,
        require_account_type: AccountType | None = None,
    ) -> KnownCredential:
        """Changes what is given. `if_match`: the ETag that it has to have still.

        Raises beside what all do: PreconditionFailed, PreconditionRequired, ConcurrentUpdate.
        """
        headers = headers_for(user_id, require_account_type=require_account_type, if_match=if_match)
        members = {} if is_active is None else {"is_active": is_active}
        try:
            body = SecretBody(members, {"api_key": api_key, "secret_key": secret_key})
        finally:
            del api_key, secret_key  # as in `store`
        with body:
            return known(await self._sent("PATCH", address_of(credential_id), headers, body))

    async def delete(
        self, credential_id: str | UUID, *, if_match: str | None = None, user_id: str | None = None
    ) -> None:
        """Deletes a credential for good. Raises as `update`."""
        await self._sent("DELETE", address_of(credential_id), headers_for(user_id, if_match=if_match))

    async def rollback(
        self, credential_id: str | UUID, *, if_match: str | None = None, user_id: str | None = None
    ) -> KnownCredential:
        """Makes the secret before the last update the present one again. Raises as `update`; NothingToRollBack."""
        headers = headers_for(user_id, if_match=if_match)
        return known(await self._sent("POST", f"{address_of(credential_id)}/rollback", headers))

    # --- validation -----------------------------------------------------------------------------------------------

    async def validate(self, credential_id: str | UUID, *, user_id: str | None = None) -> ValidateCredentialResponse:
        """Asks the provider whether it accepts the stored keys.

        Raises beside what all do: ProviderUnavailable and its kinds, which say nothing of the keys.
        """
        answer = await self._sent("POST", f"{address_of(credential_id)}/validate", headers_for(user_id), changes=False)
        return read_as(ValidateCredentialResponse, answer)

    async def validate_keys(
        self, api_key: SecretStr, secret_key: SecretStr, *, user_id: str | None = None
    ) -> ValidateCredentialResponse:
        """Asks Alpaca whether it accepts these keys, which are not stored. Raises as `validate`."""
        headers = headers_for(user_id)
        try:
            body = SecretBody({}, {"api_key": api_key, "secret_key": secret_key})
        finally:
            del api_key, secret_key  # as in `store`
        with body:
            answer = await self._sent("POST", f"{CREDENTIALS}/validate", headers, body, changes=False)
        return read_as(ValidateCredentialResponse, answer)

    # --- the provider, without the keys ---------------------------------------------------------------------------

    async def proxy(
        self,
        credential_id: str | UUID,
        method: str,
        path: str,
        *,
        max_answer: int = MAX_ANSWER,
        **options: Unpack[CallOptions],
    ) -> ProviderAnswer:
        """Calls the provider with the credential's keys, which the service adds; its whole answer, errors included.

        But for GET and HEAD without a body it is sent once, whatever happens. `max_answer`: bytes. `options`: see
        `CallOptions`.

        Raises beside what all do:
            ProxyRefused: this method and path may not be called.
            ServiceOutcomeUnknown, ProviderOutcomeUnknown: it may have been done. Look before you repeat it.
            ProviderUnavailable and its kinds: it was not done.
            UnexpectedAnswer, for more than `max_answer`: it has been done.
        """
        call = proxied_call(credential_id, method, path, options)
        answer = await self._exchange.ask(call, limit=max_answer)
        if not is_providers(answer.headers):
            raise refusal(answer.status, answer.body, answer.headers)
        return ProviderAnswer(answer.status, answer.headers, answer.body)

    @asynccontextmanager
    async def proxy_stream(
        self,
        credential_id: str | UUID,
        method: str,
        path: str,
        **options: Unpack[CallOptions],
    ) -> AsyncIterator[ProviderStream]:
        """As `proxy`, but the block gets an answer whose body is still coming; when it ends, so does the call.

        Its time-out is for the answer's head, and then for each part. Nothing is read ahead but what the sockets hold.
        """
        call = proxied_call(credential_id, method, path, options)
        async with self._exchange.streamed(call) as response:
            body = parts(response, call)
            if not is_providers(response.headers):
                raise refusal(response.status_code, await _all_of(body), response.headers)
            yield ProviderStream(response.status_code, response.headers, body)

    # --- requests -------------------------------------------------------------------------------------------------

    async def _sent(
        self, method: str, path: str, headers: Headers, body: SecretBody | None = None, *, changes: bool = True
    ) -> Answer:
        given = headers if body is None else {**headers, **JSON}
        return await self._exchange.call(Call(method=method, path=path, headers=given, content=body, changes=changes))

    async def _pages(
        self, model: type[_Page], path: str, headers: Headers, wanted: Mapping[str, object]
    ) -> AsyncIterator[_Page]:
        params = parameters_of(wanted)
        seen: set[str] = set()
        while True:
            answer = await self._exchange.call(Call(method="GET", path=path, headers=headers, params=params))
            yield read_as(model, answer)
            cursor = next_cursor(answer)
            if cursor is None:
                return
            if cursor in seen:
                raise UnexpectedAnswer
            seen.add(cursor)
            params["cursor"] = cursor


async def _all_of(body: AsyncIterator[bytes]) -> bytes:
    read = bytearray()
    async for part in body:
        read += part
        if len(read) > MAX_ANSWER:
            raise UnexpectedAnswer
    return bytes(read)
