"""A credential's keys for the length of a block: asked for at the service, fetched at Vault, wiped afterward."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.client.exchange import Call, Exchange
from service.client.requests import JSON, Headers, address_of
from service.client.unwrapping import HandOff, Unwrapper, handed_off
from service.errors import (
    CiphertextRejected,
    CredentialsError,
    HandOffAlreadyUsed,
    HandOffExpired,
    HandOffMisdirected,
    HandOffUnreadable,
    InvalidInput,
)
from service.memory.revealed import RevealedSecret
from service.modules.secret_pair import reveal_pair, wipe_pair
from service.schemas.handoff_schemas import MAX_TTL, UnwrapFailure

_REPORT_SECONDS = 5.0
_REASONS: tuple[tuple[type[CredentialsError], UnwrapFailure], ...] = (
    (HandOffAlreadyUsed, "already_used"),
    (HandOffExpired, "expired"),
    (HandOffMisdirected, "wrong_creation_path"),
    (HandOffUnreadable, "unreadable"),
)


class HandOffs:
    """Hand-offs of one caller's.

    Guarantees: a token is used at Vault only after it was looked up and found to be what was asked for; it is wiped
    when that has ended, however it ends; what fails after the service has handed off is reported to the service, which
    records it, and the report's own failure is no more than a note of the error. Does not: take back a token that was
    not unwrapped, which lasts until its time is over; ask twice.
    """

    def __init__(self, exchange: Exchange, unwrapper: Unwrapper) -> None:
        self._exchange = exchange
        self._unwrapper = unwrapper

    @asynccontextmanager
    async def revealed(
        self, credential_id: str, ttl: int, headers: Headers
    ) -> AsyncIterator[tuple[RevealedSecret, RevealedSecret]]:
        """The two keys, as strings that read as NULs once the block has ended.

        `ttl`: seconds that there are to fetch them in. Raises InvalidInput where it isn't 1 to 300; as `Exchange.call`
        and `Unwrapper.unwrap`.
        """
        if type(ttl) is not int or not 1 <= ttl <= MAX_TTL:
            raise InvalidInput("ttl", f"must be a whole number of seconds, 1 to {MAX_TTL}")
        keys = await self._keys(credential_id, ttl, headers)
        try:
            yield keys
        finally:
            wipe_pair(keys)

    async def _keys(self, credential_id: str, ttl: int, headers: Headers) -> tuple[RevealedSecret, RevealedSecret]:
        address = f"{address_of(credential_id)}/handoff"
        body = json.dumps({"ttl": ttl}).encode("ascii")
        asked_at = time.monotonic()
        # Nothing is left behind by one whose answer was lost, but a token that nobody has.
        asked = Call(method="POST", path=address, headers={**headers, **JSON}, content=body, changes=False)
        handoff = handed_off((await self._exchange.call(asked)).body)
        with handoff.token:
            outcome = await self._fetched(handoff, asked_at, ttl)
        if isinstance(outcome, CredentialsError):
            await self._report(f"{address}/{handoff.handoff_id}/failure", headers, outcome)
            raise outcome
        return outcome

    async def _fetched(
        self, handoff: HandOff, asked_at: float, ttl: int
    ) -> tuple[RevealedSecret, RevealedSecret] | CredentialsError:
        try:
            with await self._unwrapper.unwrap(handoff, asked_at=asked_at, ttl=ttl) as pair:
                return reveal_pair(pair)
        except CiphertextRejected:
            return HandOffUnreadable()
        except CredentialsError as error:
            return error

    async def _report(self, address: str, headers: Headers, error: CredentialsError) -> None:
        # Of the rest, Vault that does not answer is the usual one.
        reason = next((reason for kind, reason in _REASONS if isinstance(error, kind)), "vault_unavailable")
        body = json.dumps({"reason": reason}).encode("ascii")
        told = Call(
            method="POST",
            path=address,
            headers={**headers, **JSON},
            content=body,
            changes=False,
            timeout=_REPORT_SECONDS,
        )
        try:
            await self._exchange.call(told)
        except Exception:  # noqa: BLE001 - whatever it is, the caller's own function for tokens included: `error` is more
            error.add_note("The service could not be told of this.")
