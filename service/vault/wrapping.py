"""A decryption whose answer Vault keeps: what comes back is a single-use token that it can be had with.

Vault's response wrapping (https://developer.hashicorp.com/vault/docs/concepts/response-wrapping). Over the wire,
because the token is worth the plaintext: it is in buffers that are wiped. And because an answer that is not wrapped
after all (something between here and Vault has dropped the header) has the plaintext itself in it: none of that is
looked at, and the buffer it is in is wiped too.
"""

import base64
import json
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from service.correlation import vault_headers
from service.errors import CiphertextRejected, CredentialsError, KeyVersionRetired, VaultUnavailable
from service.http_fields import retry_after_seconds
from service.memory.plaintext import Plaintext, copy_bytes
from service.modules.handoff_ports import WrappedPair
from service.vault.client import NOT_VAULT, VaultClient, check_path, meaning
from service.vault.json_spans import (
    NotVaults,
    Span,
    between_quotes,
    character,
    member,
    members_of,
    members_of_whole,
    told_at,
)
from service.vault.transit import BATCH_HEADER
from service.vault.wire import Wire, WireAnswer

WRAP_HEADER = "X-Vault-Wrap-TTL"

# Service tokens (https://developer.hashicorp.com/vault/docs/concepts/tokens#token-prefixes), of which a namespace's
# have its id behind a dot, and the older ones without `hv`. Vault itself says that no length is promised.
_TOKEN = re.compile(rb"(?:hv)?s\.[A-Za-z0-9_-]{20,500}(?:\.[A-Za-z0-9]{1,50})?")


class TransitWrapper:
    """`Wrapper` on one transit mount.

    Guarantees: the plaintext does not come here; the token is in memory that is wiped, and what Vault says of it has
    been checked. Does not: decide who may ask, nor record it; ask twice. A repeated request would leave a second token
    for the same event, which nobody holds, but which whoever counts Vault's audit log against the events would find.
    """

    def __init__(self, client: VaultClient, wire: Wire, mount: str) -> None:
        self._client = client
        self._wire = wire
        self._mount = mount

    async def decrypt_wrapped(
        self, key: str, ciphertext: str, context: bytes, *, batch_id: UUID, seconds: int
    ) -> WrappedPair:
        path = f"{self._mount}/decrypt/{key}"
        check_path(path)
        headers = {**vault_headers(), BATCH_HEADER: str(batch_id), WRAP_HEADER: f"{seconds}s"}
        request = {"ciphertext": ciphertext, "context": base64.b64encode(context).decode("ascii")}
        body = json.dumps(request).encode("ascii")

        async def ask(token: str) -> WrappedPair:
            head = self._wire.head(path, len(body), token, headers)
            return await self._wire.post(head + body, partial(_wrapped, path, seconds))

        return await self._client.with_token(ask, repeatable=False, operation="wrap")


def _wrapped(path: str, seconds: int, answer: WireAnswer) -> WrappedPair:
    """What Vault has wrapped. Raises what another answer means, and VaultUnavailable for what Vault wouldn't say."""
    told: str | None = None
    found: WrappedPair | None = None
    with suppress(NotVaults):
        members = members_of_whole(answer.body)
        errors = member(answer.body, members, b"errors")
        told = "" if errors is None else told_at(answer.body, errors)
        if answer.status == 200:
            found = _pair(answer, members, path, seconds)
    if found is not None:
        return found
    if 200 <= answer.status < 300:
        raise VaultUnavailable(NOT_VAULT)
    raise _refusal(answer, told)


def _pair(answer: WireAnswer, members: list[tuple[Span, Span]], path: str, seconds: int) -> WrappedPair:
    body = answer.body
    if any(not _is_null(body, member(body, members, name)) for name in (b"data", b"auth")):
        raise NotVaults  # not wrapped
    info = member(body, members, b"wrap_info")
    if info is None or character(body, info[0]) != "{":
        raise NotVaults
    facts = members_of(body, info[0], 1)[0]
    start, end = _string(body, member(body, facts, b"token"))
    if not _TOKEN.fullmatch(body, start, end):
        raise NotVaults
    if _plain(body, member(body, facts, b"creation_path")) != path:
        raise NotVaults  # of something else
    lasts = _plain(body, member(body, facts, b"ttl"))
    if type(lasts) is not int or not 1 <= lasts <= seconds:
        raise NotVaults
    expires_at = _time_after(_plain(body, member(body, facts, b"creation_time")), timedelta(seconds=lasts))
    token = Plaintext.allocate(end - start)
    copy_bytes(token.address, answer.address + start, end - start)
    return WrappedPair(token, path, expires_at)


def _is_null(body: memoryview, at: Span | None) -> bool:
    return at is None or character(body, at[0]) == "n"


def _string(body: memoryview, at: Span | None) -> Span:
    if at is None or character(body, at[0]) != '"':
        raise NotVaults
    return between_quotes(at)


def _plain(body: memoryview, at: Span | None) -> Any:
    """A value that is no secret. (Of JSON that has been looked at, so only bytes that are no UTF-8 can be amiss.)"""
    if at is None:
        raise NotVaults
    try:
        return json.loads(bytes(body[slice(*at)]))
    except ValueError:
        raise NotVaults from None


def _time_after(made_at: object, lasts: timedelta) -> datetime:
    """From RFC 3339 with nanoseconds, as Go writes it. Raises NotVaults."""
    if isinstance(made_at, str):
        with suppress(ValueError, OverflowError):
            at = datetime.fromisoformat(made_at) + lasts
            if at.tzinfo is not None:
                return at.astimezone(UTC)
    raise NotVaults


def _refusal(answer: WireAnswer, told: str | None) -> CredentialsError:
    """As `meaning`; of a single decryption Vault says with the status what a batch says in its item's place."""
    if answer.status == 400 and told:
        if "too old" in told:
            return KeyVersionRetired()
        if "invalid ciphertext" in told or "message authentication failed" in told:
            return CiphertextRejected()
    return meaning(answer.status, retry_after_seconds(answer.retry_after), told)
