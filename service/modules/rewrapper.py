"""Rewrapping one batch of credentials: to their key's newest version, inside Vault, while their rows are locked.

Rows, ciphertexts, one `rewrap`, intents, KV writes, commit. As for any write, Postgres is the commit point: a crash
before it leaves the old ciphertext pinned, and what was written is found by its intent.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from service.errors import (
    CasMismatch,
    CiphertextGone,
    CiphertextRejected,
    ConcurrentUpdate,
    CredentialsError,
    CredentialUnreadable,
    KeyVersionRetired,
    VaultRefused,
    WriteInterrupted,
)
from service.modules.derivation_context import context_of
from service.modules.key_ports import KeyRing, RewrapBatch, RotationStore
from service.modules.key_records import Job, JobFailure, Rewrapped
from service.modules.ports import CiphertextStore
from service.modules.records import Credential, Seal, TransitReference, WriteIntent
from service.modules.sealed_write import annotation
from service.modules.vault_layout import VaultLayout

_TRIES = 5
_REASONS: tuple[tuple[type[CredentialUnreadable], str], ...] = (
    (CiphertextGone, "ciphertext_gone"),
    (KeyVersionRetired, "key_version_retired"),
    (CiphertextRejected, "ciphertext_rejected"),
    (CredentialUnreadable, "reference_mismatch"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReport:
    """What came of a batch."""

    taken: int
    last: UUID | None
    """The last one taken; the next batch is from after it. None: there was nothing left."""
    trouble: CredentialsError | None
    """What kept some of them from being done, this time; the others are. They are found again in a later pass."""


@dataclass(slots=True)
class _Secret:
    """A secret that is to move: a credential's present one, or the kept one."""

    is_kept: bool
    reference: TransitReference
    context: bytes
    seal: Seal | None = None
    intent: WriteIntent | None = None


@dataclass(slots=True)
class _Item:
    """A credential under way."""

    before: Credential
    secrets: list[_Secret] = field(default_factory=list)
    failure: str | None = None
    trouble: CredentialsError | None = None
    after: Credential | None = None


class Rewrapper:
    """Takes batches, and moves them.

    Guarantees: nothing is decrypted; a row that somebody else changes meanwhile is not touched (its lock is held from
    reading it to moving it); nothing live is overwritten; a credential that can't be rewrapped fails alone; not more
    than `limit` ciphertexts, of each credential two at most, are held at a time. Does not: decide when it is all done.
    """

    def __init__(
        self,
        store: RotationStore,
        keys: KeyRing,
        ciphertexts: CiphertextStore,
        layout: VaultLayout,
        *,
        at_once: int,
        intent_age_seconds: float,
    ) -> None:
        """`at_once`: requests to KV side by side, of all batches together."""
        self._store = store
        self._keys = keys
        self._ciphertexts = ciphertexts
        self._layout = layout
        self._kv = asyncio.Semaphore(at_once)
        # As `SealedWriter`'s: what hasn't been written in half an intent's life never will be.
        self._write_within = intent_age_seconds / 2

    async def batch(self, job: Job, to_version: int, after: UUID | None, limit: int) -> BatchReport:
        """One batch, from taking its rows to the commit.

        Raises:
            CredentialsError: nothing was moved. What was written meanwhile is left to reconciliation.
        """
        batch_id = uuid.uuid4()
        async with self._store.take(job, to_version, after, limit) as batch:
            items = [self._item(credential, to_version) for credential in batch.credentials]
            await self._each(items, self._read)
            await self._rewrap(job, to_version, items, batch_id)
            await self._write(batch, items)
            await self._finish(batch, items, batch_id)
        return BatchReport(
            taken=len(items),
            last=items[-1].before.id if items else None,
            trouble=next((item.trouble for item in items if item.trouble is not None), None),
        )

    def _item(self, credential: Credential, to_version: int) -> _Item:
        """What of a credential is below the version: the kept secret first, so that the present one is written last."""
        item = _Item(credential)
        try:
            present = self._layout.checked(credential)
        except CredentialUnreadable as error:
            item.failure = _reason(error)
            return item
        kept = credential.previous
        if kept is not None and kept.transit_key_version < to_version:
            reference = replace(
                present,
                transit_key_version=kept.transit_key_version,
                kv_version=kept.kv_version,
                secret_version=kept.secret_version,
            )
            item.secrets.append(_secret(credential, reference, is_kept=True))
        if present.transit_key_version < to_version:
            item.secrets.append(_secret(credential, present, is_kept=False))
        return item

    async def _each(self, items: Sequence[_Item], work: Callable[[_Item], Awaitable[None]]) -> None:
        """Does the work for every item that nothing is wrong with, side by side; notes what goes wrong."""

        async def one(item: _Item) -> None:
            try:
                await work(item)
            except CredentialsError as error:
                item.trouble = error

        async with asyncio.TaskGroup() as group:
            for item in items:
                if item.secrets and item.trouble is None:
                    group.create_task(one(item))

    async def _read(self, item: _Item) -> None:
        for secret in item.secrets:
            try:
                async with self._kv:
                    seal = await self._ciphertexts.read(secret.reference.kv_path, secret.reference.kv_version)
                # It would not open, either.
                if seal.transit_key_version != secret.reference.transit_key_version:
                    raise CredentialUnreadable
            except CredentialUnreadable as error:
                _fail(item, secret, error)
            else:
                secret.seal = seal

    async def _rewrap(self, job: Job, to_version: int, items: Sequence[_Item], batch_id: UUID) -> None:
        asked = [
            (item, secret, (secret.seal.ciphertext, secret.context))
            for item in items
            if item.trouble is None
            for secret in item.secrets
            if secret.seal is not None
        ]
        outcomes: Sequence[Seal | Exception] = []
        if asked:
            outcomes = await self._keys.rewrap(job.transit_key, [pair for _, _, pair in asked], batch_id=batch_id)
        for (item, secret, _), outcome in zip(asked, outcomes, strict=True):
            secret.seal = None if isinstance(outcome, Exception) else outcome
            if isinstance(outcome, CredentialUnreadable):
                _fail(item, secret, outcome)
            elif isinstance(outcome, Exception):
                raise outcome
            elif outcome.transit_key_version < to_version:
                raise VaultRefused("Vault's key has lost versions")
        for item in items:
            item.secrets = [secret for secret in item.secrets if secret.seal is not None]

    async def _write(self, batch: RewrapBatch, items: Sequence[_Item]) -> None:
        intents = []
        for item in items:
            if item.trouble is None:
                newest = max(item.before.pinned_versions)  # as a rule; if not, KV's check-and-set says so
                for number, secret in enumerate(item.secrets, newest + 1):
                    secret.intent = _intent(item, number)
                    intents.append(secret.intent)
        if not intents:
            return
        started = time.monotonic()
        await batch.begin(intents)
        await self._each(items, lambda item: self._write_one(batch, item, started))

    async def _write_one(self, batch: RewrapBatch, item: _Item, started: float) -> None:
        newest = max(item.before.pinned_versions)
        present, kept = item.before.reference, item.before.previous
        for secret in item.secrets:
            newest = await self._put(batch, item, secret, newest, started)
            assert secret.seal is not None  # noqa: S101 - those without have been left out
            version = secret.seal.transit_key_version
            if secret.is_kept and kept is not None:
                kept = replace(kept, kv_version=newest, transit_key_version=version)
            else:
                present = replace(present, kv_version=newest, transit_key_version=version)
        after = replace(item.before, reference=present, previous=kept)
        if present is not item.before.reference:
            async with self._kv:
                await self._ciphertexts.annotate(present.kv_path, annotation(after))
        item.after = after

    async def _put(self, batch: RewrapBatch, item: _Item, secret: _Secret, newest: int, started: float) -> int:
        """Writes the version after `newest`, or, where a write under way has taken it, one after that."""
        path = item.before.reference.kv_path
        for _ in range(_TRIES):
            intent = secret.intent
            assert intent is not None and secret.seal is not None  # noqa: S101, PT018 - the caller has seen to it
            if intent.kv_version != newest + 1:
                await batch.abandon([intent])
                secret.intent = intent = _intent(item, newest + 1)
                await batch.begin([intent])
            if time.monotonic() - started > self._write_within:
                raise WriteInterrupted
            try:
                async with self._kv:
                    return await self._ciphertexts.write(path, secret.seal.ciphertext, cas=newest)
            except CasMismatch:
                async with self._kv:
                    newest = await self._ciphertexts.newest_version(path)
        raise ConcurrentUpdate

    async def _finish(self, batch: RewrapBatch, items: Sequence[_Item], batch_id: UUID) -> None:
        rewrapped = [Rewrapped(before=item.before, after=item.after) for item in items if item.after is not None]
        intents = [
            secret.intent
            for item in items
            if item.after is not None
            for secret in item.secrets
            if secret.intent is not None
        ]
        failures = [JobFailure(item.before.id, item.failure) for item in items if item.failure and not item.trouble]
        if rewrapped or failures:
            await batch.finish(rewrapped, intents, failures, batch_id=batch_id)


def _secret(credential: Credential, reference: TransitReference, *, is_kept: bool) -> _Secret:
    # The row's user: nobody is there who could have authenticated as one, and what is bound to another doesn't rewrap.
    return _Secret(is_kept, reference, context_of(credential, reference, user_id=credential.user_id))


def _intent(item: _Item, kv_version: int) -> WriteIntent:
    return WriteIntent(
        id=uuid.uuid4(),
        credential_id=item.before.id,
        kv_path=item.before.reference.kv_path,
        kv_version=kv_version,
    )


def _reason(error: CredentialUnreadable) -> str:
    return next(reason for kind, reason in _REASONS if isinstance(error, kind))


def _fail(item: _Item, secret: _Secret, error: CredentialUnreadable) -> None:
    """The present secret's reason counts, where both fail. One that is well moves, whatever the other is."""
    if not secret.is_kept:
        item.failure = _reason(error)
    elif item.failure is None:
        item.failure = f"previous_{_reason(error)}"
