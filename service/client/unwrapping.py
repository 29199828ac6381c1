"""Unwrapping a hand-off at Vault, over the wire: look the token up, check what it was made for, exchange it, once.

https://developer.hashicorp.com/vault/docs/concepts/response-wrapping#response-wrapping-token-validation: who only
unwraps can't tell a token that somebody has unwrapped, read, and wrapped again.
"""

import json
import re
import time
from dataclasses import dataclass
from typing import Any

from service.client.vault_options import NAMESPACE, VaultOptions, check_verifies, plain_url
from service.errors import (
    ConfigurationError,
    CredentialsError,
    HandOffAlreadyUsed,
    HandOffExpired,
    HandOffMisdirected,
    HandOffUnreadable,
    UnexpectedAnswer,
    VaultDenied,
    VaultSealed,
    VaultThrottled,
    VaultUnavailable,
)
from service.http_fields import retry_after_seconds
from service.memory.plaintext import Plaintext
from service.modules.input_checks import uuid_from
from service.tls import tls_context
from service.vault.batch_answer import open_items
from service.vault.json_spans import NotVaults, between_quotes, character, member, members_of, members_of_whole
from service.vault.wire import Wire, WireAddress, WireAnswer

_LOOKUP, _UNWRAP = "sys/wrapping/lookup", "sys/wrapping/unwrap"
_MAX_ANSWER = 64 * 1024
_CONNECTIONS = 16
_MAX_VAULTS = 8
# What Vault says of a token that it doesn't know: it has expired, was unwrapped, or there never was one.
_UNKNOWN = "wrapping token is not valid"
_TOKEN = re.compile(rb"[A-Za-z0-9._-]{1,1024}")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]*+={0,2}+")
_NO_ERROR = (-1, -1)
_LONGEST = 10**6  # seconds: a float holds it, whatever is made of it


@dataclass(frozen=True, slots=True, kw_only=True)
class HandOff:
    """What the service has answered. Whoever holds it wipes `token`."""

    handoff_id: str
    token: Plaintext
    creation_path: str
    vault_addr: str
    vault_namespace: str | None
    credential_type: str


@dataclass(frozen=True, slots=True)
class _Refused:
    """An answer that is no success. `is_unknown`: Vault has no such token."""

    error: CredentialsError
    is_unknown: bool


def handed_off(body: bytes) -> HandOff:
    """The service's answer to a hand-off. Raises UnexpectedAnswer.

    What has been made of the token on the way, the answer's bytes and their JSON, is freed when this returns, and not
    wiped: once it is unwrapped, it is worth nothing.
    """
    found = _parsed(body)
    if found is None:
        del body  # it may hold the token all the same, and a traceback may show locals
        raise UnexpectedAnswer
    return found


def _parsed(body: bytes) -> HandOff | None:
    # Raises nothing: its locals hold the token.
    try:
        told = json.loads(body)
        texts = [told[name] for name in ("creation_path", "vault_addr", "credential_type", "wrapping_token")]
        namespace = told["vault_namespace"]
        handoff_id = str(uuid_from("handoff_id", told["handoff_id"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if not all(isinstance(each, str) for each in texts) or not isinstance(namespace, str | None):
        return None
    token = Plaintext.copy_of(texts[3])
    with token.reveal() as view:
        is_token = _TOKEN.fullmatch(view) is not None
    if not is_token:
        token.wipe()
        return None
    return HandOff(
        handoff_id=handoff_id,
        token=token,
        creation_path=texts[0],
        vault_addr=texts[1],
        vault_namespace=namespace,
        credential_type=texts[2],
    )


class Unwrapper:
    """Vault, as an orchestrator reaches it: with hand-offs' tokens, and no token of its own.

    Guarantees: a token is looked up before it is unwrapped, and is unwrapped once at most, by this; the plaintext is in
    no memory but buffers that are wiped, and the `Plaintext` that is returned. Does not: know who else had the token.
    """

    def __init__(self, options: VaultOptions) -> None:
        """Raises ConfigurationError for an address that is none, or not to be used, and TLS that verifies nothing."""
        self._options = options
        self._tls = tls_context() if options.tls is None else options.tls
        check_verifies("VaultOptions.tls", self._tls)
        if options.namespace and not NAMESPACE.fullmatch(options.namespace):
            raise ConfigurationError("VaultOptions.namespace: must be printable ASCII without spaces")
        self._wires: dict[tuple[str, str | None], Wire] = {}
        self._allowed = None
        try:
            if options.allowed_addrs is not None:
                self._allowed = frozenset(map(self._checked, options.allowed_addrs))
            self._addr = None if options.addr is None else self._checked(options.addr)
        except ValueError:
            raise ConfigurationError(
                "VaultOptions.addr, allowed_addrs: must be https addresses (http: of this machine)"
            ) from None
        if self._addr is not None and self._allowed is not None and self._addr not in self._allowed:
            raise ConfigurationError("VaultOptions.addr: is not among allowed_addrs")

    async def unwrap(self, handoff: HandOff, *, asked_at: float, ttl: float) -> Plaintext:
        """What is wrapped: the pair, which the caller wipes.

        `asked_at`: on `time.monotonic`'s clock, before the service was asked. A token is at least as young as that, so
        one that Vault doesn't know within its time has not expired.

        Raises:
            HandOffExpired, HandOffAlreadyUsed, HandOffMisdirected, HandOffUnreadable.
            VaultUnavailable, VaultDenied: Vault was asked in vain. It may have unwrapped all the same.
        """
        if handoff.creation_path != self._path_for(handoff.credential_type):
            raise HandOffMisdirected
        wire = self._wire_to(handoff)
        until = asked_at + ttl
        _check_time(until)
        with _lookup_request(wire, handoff.token) as request, request.reveal() as view:
            found = await wire.post(view, _looked_up)
        if isinstance(found, _Refused):
            raise _meaning(found, until)
        path, seconds = found
        if path != handoff.creation_path or seconds > ttl:
            raise HandOffMisdirected
        until = asked_at + seconds
        _check_time(until)
        with _unwrap_request(wire, handoff.token) as request, request.reveal() as view:
            opened = await wire.post(view, _unwrapped)
        if isinstance(opened, _Refused):
            raise _meaning(opened, until)
        return opened

    def close(self) -> None:
        """Closes the connections, and ends what is under way."""
        for wire in self._wires.values():
            wire.close()

    def _path_for(self, credential_type: str) -> str:
        return f"{self._options.transit_mount}/decrypt/{self._options.key_prefix}{credential_type}"

    def _wire_to(self, handoff: HandOff) -> Wire:
        """Raises HandOffMisdirected where the hand-off's Vault isn't one to be asked."""
        url = self._addr
        if url is None:
            try:
                url = self._checked(handoff.vault_addr)
            except ValueError:
                raise HandOffMisdirected from None
            if self._allowed is not None and url not in self._allowed:
                raise HandOffMisdirected
        namespace = handoff.vault_namespace if self._options.namespace is None else self._options.namespace
        wire = self._wires.get((url, namespace))
        if wire is None:
            options = self._options
            if (namespace and not NAMESPACE.fullmatch(namespace)) or len(self._wires) >= _MAX_VAULTS:
                raise HandOffMisdirected
            address = WireAddress(
                url=url, namespace=namespace, tls=self._tls, server_name=options.server_name, timeout=options.timeout
            )
            wire = Wire(address, max_connections=_CONNECTIONS, max_answer=_MAX_ANSWER)
            self._wires[url, namespace] = wire
        return wire

    def _checked(self, url: str) -> str:
        return plain_url(url, allow_plain=self._options.allow_plain_http)


def _check_time(until: float) -> None:
    if time.monotonic() >= until:
        raise HandOffExpired


def _meaning(refused: _Refused, until: float) -> CredentialsError:
    if not refused.is_unknown:
        return refused.error
    return HandOffExpired() if time.monotonic() >= until else HandOffAlreadyUsed()


# --- requests: the token goes from its memory into theirs, which is wiped ---------------------------------------------


def _lookup_request(wire: Wire, token: Plaintext) -> Plaintext:
    before, after = b'{"token":"', b'"}'
    head = wire.head(_LOOKUP, len(before) + len(token) + len(after), None, {})
    return _joined(head + before, token, after)


def _unwrap_request(wire: Wire, token: Plaintext) -> Plaintext:
    # The token in the header, as in https://developer.hashicorp.com/vault/api-docs/system/wrapping-unwrap: in the body
    # it would need another token beside it.
    head = wire.head(_UNWRAP, 0, None, {}).removesuffix(b"\r\n")
    return _joined(head + b"X-Vault-Token: ", token, b"\r\n\r\n")


def _joined(before: bytes, token: Plaintext, after: bytes) -> Plaintext:
    request = Plaintext.allocate(len(before) + len(token) + len(after))
    with request.reveal() as room, token.reveal() as secret:
        room[: len(before)] = before
        room[len(before) : len(before) + len(secret)] = secret
        room[len(before) + len(secret) :] = after
    return request


# --- answers, read while they are in the wire's buffer ----------------------------------------------------------------


def _looked_up(answer: WireAnswer) -> tuple[str, float] | _Refused:
    """Where the token was made, and how many seconds it lasts. Such an answer has no secret."""
    found = _object(answer)
    data = found.get("data")
    if answer.status == 200 and isinstance(data, dict):
        path, seconds = data.get("creation_path"), data.get("creation_ttl")
        if isinstance(path, str) and type(seconds) is int and 0 < seconds <= _LONGEST:
            return path, float(seconds)
    return _refusal(answer, found)


def _unwrapped(answer: WireAnswer) -> Plaintext | _Refused:
    if answer.status != 200:
        return _refusal(answer, _object(answer))
    try:
        body = answer.body
        data = member(body, members_of_whole(body), b"data")
        if data is None or character(body, data[0]) != "{":
            raise NotVaults
        found = member(body, members_of(body, data[0], 1)[0], b"plaintext")
        if found is None or character(body, found[0]) != '"':
            raise NotVaults
        span = between_quotes(found)
        if not _BASE64.fullmatch(body, *span):
            raise NotVaults
        (opened,) = open_items(body, answer.address, [(span, _NO_ERROR)])
    except NotVaults:
        return _Refused(HandOffUnreadable(), is_unknown=False)
    return opened if isinstance(opened, Plaintext) else _Refused(HandOffUnreadable(), is_unknown=False)


def _object(answer: WireAnswer) -> dict[str, Any]:
    """An answer without a secret, as JSON."""
    try:
        found = json.loads(bytes(answer.body))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _refusal(answer: WireAnswer, found: dict[str, Any]) -> _Refused:
    """What an answer that is no success means (https://developer.hashicorp.com/vault/api-docs#http-status-codes)."""
    told = " ".join(map(str, found["errors"])) if isinstance(found.get("errors"), list) else ""
    after = retry_after_seconds(answer.retry_after)
    error: CredentialsError = VaultUnavailable(retry_after=after)
    match answer.status:
        case 400 if _UNKNOWN in told:
            return _Refused(HandOffExpired(), is_unknown=True)
        case 429:
            error = VaultThrottled(retry_after=after)
        case 503 if "sealed" in told.lower():
            error = VaultSealed(retry_after=after)
        case 403:
            error = VaultDenied()
    return _Refused(error, is_unknown=False)
