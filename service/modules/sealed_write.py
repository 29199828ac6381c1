"""Getting a secret into Vault so that a crash between any two steps harms nothing: encrypt, intent, KV, commit.

Postgres is the commit point. Until the last transaction the old credential works; after it, the new one. What is left
over is found by its intent, by `reconciliation.py`.
"""

import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace

from service.errors import CasMismatch, ConcurrentUpdate, CredentialNotFound, CredentialsError, WriteInterrupted
from service.memory.plaintext import Plaintext
from service.modules.cipher_batches import CipherBatches
from service.modules.coalescer import FairQueue
from service.modules.derivation_context import context_of
from service.modules.ports import CiphertextStore, CredentialStore, ReconciliationStore
from service.modules.records import AuditAccess, Credential, WriteIntent

_log = logging.getLogger(__name__)
_TRIES = 5

Commit = Callable[[Credential, WriteIntent], Awaitable[Credential | None]]
"""A write's last transaction; None where the key version was retired meanwhile."""


def annotation(credential: Credential) -> dict[str, str]:
    """What a person in the Vault UI sees at the credential's path: its custom metadata."""
    reference = credential.reference
    return {
        "credential_type": credential.credential_type,
        "transit_key": reference.transit_key,
        "transit_key_version": str(reference.transit_key_version),
        "secret_version": str(reference.secret_version),
    }


class SealedWriter:
    """Seals a pair and writes it to KV, around the caller's last transaction.

    Guarantees: nothing live is overwritten (every KV write is check-and-set on the newest version) and nothing is
    forgotten (the intent is committed before the KV write). A key version that is retired under way is sealed again.
    Does not: clean up after a commit whose answer was lost; whether it happened is for reconciliation to see.
    """

    def __init__(
        self,
        store: CredentialStore,
        intents: ReconciliationStore,
        ciphertexts: CiphertextStore,
        ciphers: CipherBatches,
        kv_writes: FairQueue,
        *,
        intent_age_seconds: float,
    ) -> None:
        self._store = store
        self._intents = intents
        self._ciphertexts = ciphertexts
        self._ciphers = ciphers
        self._kv_writes = kv_writes
        # Half of an intent's life: what hasn't been written by then never will be, so that reconciliation, which
        # takes the intent at the end of its life, finds either a written version or none to come.
        self._write_within = intent_age_seconds / 2

    async def write(
        self, draft: Credential, pair: Plaintext, commit: Commit, *, is_new: bool, id_was_given: bool = False
    ) -> Credential:
        """Seals `pair` as what `draft` says and commits it. The draft's versions of key and KV are filled in here.

        `id_was_given`: of a new one, by whoever imports it, so that others may write to the same path.

        Raises:
            ConcurrentUpdate: somebody else's write won. WriteInterrupted: this one took too long.
            Busy: too many writes are waiting; nothing was done.
            TemporarilyUnavailable: Vault or Postgres doesn't answer; the write may have happened only if it was the
                commit itself that got no answer.
        """
        newest = 0 if is_new else await self._ciphertexts.newest_version(draft.reference.kv_path)
        for _ in range(_TRIES):
            sealed, ciphertext = await self._seal(draft, pair, kv_version=newest + 1)
            intent = WriteIntent(
                id=uuid.uuid4(),
                credential_id=draft.id,
                kv_path=sealed.reference.kv_path,
                kv_version=sealed.reference.kv_version,
                id_was_given=id_was_given,
            )
            try:
                await self._put(sealed, intent, ciphertext, cas=newest)
            except CasMismatch:
                await self._store.abandon_write(intent)
                newest = await self._ciphertexts.newest_version(intent.kv_path)
                continue
            try:
                committed = await commit(sealed, intent)
            except (ConcurrentUpdate, WriteInterrupted):
                await self._take_back(intent)
                raise
            if committed is not None:
                await self._annotate_anew(draft, committed)
                return committed
            await self._take_back(intent)
            newest = await self._ciphertexts.newest_version(intent.kv_path)
        raise ConcurrentUpdate

    async def _put(self, sealed: Credential, intent: WriteIntent, ciphertext: str, *, cas: int) -> None:
        """Intent, ciphertext, annotation; side by side with other users' writes, but for so many at once."""

        async def put() -> None:
            started = time.monotonic()
            await self._store.begin_write(intent)
            if time.monotonic() - started > self._write_within:
                raise WriteInterrupted
            await self._ciphertexts.write(intent.kv_path, ciphertext, cas=cas)
            await self.annotate(sealed)

        # The intent is begun when the turn has come: time spent waiting is not of its life.
        await self._kv_writes.run(put, group=sealed.user_id)

    async def _seal(self, draft: Credential, pair: Plaintext, *, kv_version: int) -> tuple[Credential, str]:
        reference = draft.reference
        context = context_of(draft, reference, user_id=draft.user_id)
        seal = await self._ciphers.encrypt(reference.transit_key, pair, context, user_id=draft.user_id)
        sealed = replace(
            draft, reference=replace(reference, transit_key_version=seal.transit_key_version, kv_version=kv_version)
        )
        return sealed, seal.ciphertext

    async def annotate(self, credential: Credential) -> None:
        """Writes what a person in the Vault UI sees at the credential's path."""
        await self._ciphertexts.annotate(credential.reference.kv_path, annotation(credential))

    async def _annotate_anew(self, draft: Credential, committed: Credential) -> None:
        """A rewrap that came between moved the pin, and wrote its annotation over ours. Best effort: it is for show."""
        if committed.previous is None or committed.previous.kv_version == draft.reference.kv_version:
            return
        try:
            await self.annotate(committed)
        except CredentialsError as error:
            _log.info("an annotation is out of date", extra={"error": type(error).__name__})

    async def _take_back(self, intent: WriteIntent) -> None:
        """Removes a version that will never be committed. Best effort: the intent is there for reconciliation."""
        try:
            if intent.id_was_given:
                await self._take_back_of_many(intent)
                return
            await self.settle(intent, await self._row(intent))
            await self._store.abandon_write(intent)
        except CredentialsError as error:
            _log.info("an uncommitted version is left to reconciliation", extra={"error": type(error).__name__})

    async def _take_back_of_many(self, intent: WriteIntent) -> None:
        """As reconciliation would: others may be writing to the path, which is theirs as well then."""
        async with self._intents.hold_intent(intent, waits=True) as held:
            if held is not None:
                await self.settle(intent, held.credential, alone=held.alone)

    async def _row(self, intent: WriteIntent) -> Credential | None:
        try:
            # Whoever's it is by now: a row given to somebody else by hand must not make its path look unused.
            return await self._store.get(AuditAccess(actor="writer"), intent.credential_id)
        except CredentialNotFound:
            return None

    async def settle(self, intent: WriteIntent, row: Credential | None, *, alone: bool = True) -> bool:
        """Makes KV agree with the row where a write or deletion ended early. Returns whether anything was removed.

        A version that the row pins stays. `alone`: no other intent accounts for the path.
        """
        if row is None:
            if alone or intent.kv_version is None:
                await self._ciphertexts.delete(intent.kv_path)
            else:
                await self._ciphertexts.destroy(intent.kv_path, intent.kv_version)
            return True
        if intent.kv_version is None or intent.kv_version in row.pinned_versions:
            return False
        await self._ciphertexts.destroy(intent.kv_path, intent.kv_version)
        await self.annotate(row)
        return True
