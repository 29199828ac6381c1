"""Opens that are asked for at the same time: one statement that authorises and records, one decryption for each key.

The order is invariant 5's: the events are committed before transit is asked. The batch's id is in each event and in the
header that Vault's audit device logs, so that the two can be joined.
"""

import asyncio
import uuid
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from uuid import UUID

from service.correlation import note_batch
from service.errors import (
    CiphertextRejected,
    ConnectionBusy,
    CredentialsError,
    CredentialUnreadable,
    KeyVersionRetired,
    NothingToRollBack,
    again,
)
from service.measures import BatchMeter
from service.memory.plaintext import Plaintext
from service.modules.cipher_batches import CipherBatches
from service.modules.ciphertext_cache import CiphertextCache
from service.modules.coalescer import BatchLimits, Coalescer
from service.modules.derivation_context import context_of
from service.modules.failed_uses import FailedUse, record_failed
from service.modules.ports import AccessLog, CallerConnection
from service.modules.records import Credential, OpenRequest, Seal, TransitReference
from service.modules.vault_layout import VaultLayout


@dataclass(frozen=True, slots=True)
class Opened:
    """A credential as authorised, and its decrypted pair. Whoever holds it wipes it."""

    credential: Credential
    pair: Plaintext
    batch_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Granted:
    """An opening that is authorised and recorded, and not decrypted yet."""

    credential: Credential
    batch_id: UUID


@dataclass(frozen=True, slots=True)
class _Failed:
    """An opening that was granted and came to nothing; the batch is recording that."""

    error: CredentialsError
    batch_id: UUID
    recorded: "asyncio.Task[None] | None" = None


@dataclass(frozen=True, slots=True)
class _Held:
    """What is decrypted in a batch: its place there, and what the ciphertext cache had of it."""

    at: int
    reference: TransitReference
    item: tuple[str, bytes]


class OpenBatches:
    """Authorises, records and decrypts, in batches.

    Guarantees: nothing is decrypted before its event is committed; a failure after that is a second event; what is
    not in the ciphertext cache is read after the batch, so that it holds up nobody else; a plaintext whose caller has
    gone is wiped. Does not: try anything again.
    """

    def __init__(
        self,
        log: AccessLog,
        ciphertexts: CiphertextCache,
        ciphers: CipherBatches,
        layout: VaultLayout,
        limits: BatchLimits,
        *,
        meter: BatchMeter | None = None,
    ) -> None:
        self._log = log
        self._ciphertexts = ciphertexts
        self._ciphers = ciphers
        self._layout = layout
        self._recording: set[asyncio.Task[None]] = set()
        self._opens = Coalescer[OpenRequest, Opened | Granted | _Failed](
            self._run, limits, discard=_discard, name="opens", meter=meter
        )

    async def open(self, request: OpenRequest, conn: CallerConnection | None) -> Opened:
        """Opens one credential. With `conn` not in a transaction, authorising and recording go over it, alone.

        Raises:
            CredentialDenied, CredentialUnreadable, Busy, TemporarilyUnavailable.
        """
        result: Opened | Granted | _Failed | None = None
        if conn is not None and not conn.is_in_transaction():
            with suppress(ConnectionBusy):
                result = await self._granted_over(conn, request)
        if result is None:
            result = await self._opens.call(request, group=request.access.user_id)
        note_batch(result.batch_id)
        if isinstance(result, Opened):
            return result
        if isinstance(result, _Failed):
            if result.recorded is not None:
                await asyncio.shield(result.recorded)
            raise result.error
        try:
            return Opened(result.credential, await self._decrypt(request, result), result.batch_id)
        except CredentialsError as error:
            await record_failed(self._log, [_failed(request, result, error)])
            raise

    async def _granted_over(self, conn: CallerConnection, request: OpenRequest) -> Granted:
        batch_id = uuid.uuid4()
        (granted,) = await self._log.authorise_opens([request], batch_id=batch_id, conn=conn)
        if isinstance(granted, Exception):
            raise granted
        return Granted(granted, batch_id)

    async def _decrypt(self, request: OpenRequest, granted: Granted) -> Plaintext:
        reference, context = self._located(request, granted.credential)
        user_id = request.access.user_id
        seal = await self._ciphertexts.read(reference.kv_path, reference.kv_version, user_id=user_id)
        check_version(seal, reference)
        try:
            return await self._ciphers.decrypt(
                reference.transit_key, seal.ciphertext, context, batch_id=granted.batch_id, user_id=user_id
            )
        except (CiphertextRejected, KeyVersionRetired):
            self._ciphertexts.forget(reference.kv_path, reference.kv_version)
            raise

    async def _run(self, requests: list[OpenRequest]) -> list[Opened | Granted | _Failed | Exception]:
        batch_id = uuid.uuid4()
        granted = await self._log.authorise_opens(requests, batch_id=batch_id)
        results: list[Opened | Granted | _Failed | Exception] = []
        by_key: dict[str, list[_Held]] = defaultdict(list)
        for at, (request, credential) in enumerate(zip(requests, granted, strict=True)):
            if isinstance(credential, Exception):
                results.append(credential)
                continue
            try:
                reference, context = self._located(request, credential)
                seal = self._ciphertexts.held(reference.kv_path, reference.kv_version)
                if seal is not None:
                    check_version(seal, reference)
                    by_key[reference.transit_key].append(_Held(at, reference, (seal.ciphertext, context)))
                results.append(Granted(credential, batch_id))
            except CredentialsError as error:
                results.append(_Failed(error, batch_id))
        try:
            decrypting = [self._decrypt_held(key, held, batch_id, results) for key, held in by_key.items()]
            if len(decrypting) == 1:
                await decrypting[0]  # the usual case, and a turn of the loop less
            else:
                # All of them end before any failure is passed on, so that nothing is put into the results after it.
                for outcome in await asyncio.gather(*decrypting, return_exceptions=True):
                    if isinstance(outcome, BaseException):
                        raise outcome
        except BaseException:
            for result in results:
                _discard(result)
            raise
        self._record_later(requests, granted, batch_id, results)
        return results

    def _record_later(
        self,
        requests: Sequence[OpenRequest],
        granted: Sequence[Credential | Exception],
        batch_id: UUID,
        results: list[Opened | Granted | _Failed | Exception],
    ) -> None:
        """Records the batch's failures in one statement, which those that have failed wait for and no one else."""
        failures = [
            _failed(request, Granted(credential, batch_id), result.error)
            for request, credential, result in zip(requests, granted, results, strict=True)
            if isinstance(result, _Failed) and isinstance(credential, Credential)
        ]
        if not failures:
            return
        recorded = asyncio.create_task(record_failed(self._log, failures), name="failed-opens")
        self._recording.add(recorded)
        recorded.add_done_callback(self._recording.discard)
        for at, result in enumerate(results):
            if isinstance(result, _Failed):
                results[at] = _Failed(result.error, batch_id, recorded)

    async def _decrypt_held(
        self,
        key: str,
        held: list[_Held],
        batch_id: UUID,
        results: list[Opened | Granted | _Failed | Exception],
    ) -> None:
        """Puts what comes of these in their places."""
        outcomes: list[Plaintext | Exception]
        try:
            outcomes = await self._ciphers.decrypt_batch(key, [each.item for each in held], batch_ids=[batch_id])
        except CredentialsError as error:
            outcomes = [again(error) for _ in held]
        for each, outcome in zip(held, outcomes, strict=True):
            credential = results[each.at]
            if isinstance(outcome, (CiphertextRejected, KeyVersionRetired)):
                self._ciphertexts.forget(each.reference.kv_path, each.reference.kv_version)
            if isinstance(outcome, Plaintext) and isinstance(credential, Granted):
                results[each.at] = Opened(credential.credential, outcome, batch_id)
            elif isinstance(outcome, CredentialsError):
                results[each.at] = _Failed(outcome, batch_id)

    def _located(self, request: OpenRequest, credential: Credential) -> tuple[TransitReference, bytes]:
        """Where the ciphertext is, and the context that it opens under. Raises what the request's `accept` does."""
        if request.accept is not None:
            request.accept(credential)
        reference = self._layout.checked(credential)
        if request.previous:
            if credential.previous is None:
                raise NothingToRollBack
            kept = credential.previous
            reference = replace(
                reference,
                kv_version=kept.kv_version,
                secret_version=kept.secret_version,
                transit_key_version=kept.transit_key_version,
            )
        return reference, context_of(credential, reference, user_id=request.access.user_id)

    async def aclose(self) -> None:
        """Ends what is under way."""
        await self._opens.aclose()
        await asyncio.gather(*self._recording)


def _failed(request: OpenRequest, granted: Granted, error: CredentialsError) -> FailedUse:
    return FailedUse(
        access=request.access,
        credential=granted.credential,
        action=request.action,
        error=error,
        batch_id=granted.batch_id,
    )


def check_version(seal: Seal, reference: TransitReference) -> None:
    """Raises CredentialUnreadable where the ciphertext is not under the key version that its row says."""
    # Opening doesn't need the row's, but the events tell it and retiring a version counts by it.
    if seal.transit_key_version != reference.transit_key_version:
        raise CredentialUnreadable


def _discard(result: Opened | Granted | _Failed | Exception) -> None:
    if isinstance(result, Opened):
        result.pair.wipe()
