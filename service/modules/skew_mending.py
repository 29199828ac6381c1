"""Mending what a restore of Vault or Postgres alone has parted, as far as that loses nothing.

A row is pinned to another KV version of its own path that holds the same secret, or a newer one. Which version holds
which secret is not believed but proved: Vault is asked to rewrap it under the context of that secret, which it does for
the right ciphertext alone (invariant 4); the outcome is thrown away. So this takes the rotator's login, and nothing is
decrypted but inside Vault.
"""

import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

from service.errors import CredentialUnreadable, KeyVersionRetired
from service.modules.derivation_context import context_of
from service.modules.key_ports import KeyRing
from service.modules.ports import CiphertextStore
from service.modules.records import Credential, Seal
from service.modules.sealed_write import annotation
from service.modules.skew_ports import CopiesMade, KeptPin, Repin, SkewStore
from service.modules.skew_records import Examined, SkewKind
from service.modules.vault_layout import VaultLayout

_VERSIONS = 16
"""Live KV versions that are tried, the newest ones; a path has two, as a rule."""
_SECRETS = 16
"""Secret versions above the row's that each of them is tried as."""


class Remedy(StrEnum):
    """What can be done for a credential."""

    REPIN = "repin"
    ANNOTATE = "annotate"
    NONE_NEEDED = "none_needed"
    WAIT = "wait"
    ROLL_BACK = "roll_back"
    STORE_ANEW = "store_anew"
    STORE_ANEW_OR_DELETE = "store_anew_or_delete"
    ALLOW_DECRYPTION = "allow_decryption"

    @property
    def meaning(self) -> str:
        """The same in words."""
        return _MEANINGS[self]


_MEANINGS = {
    Remedy.REPIN: "pinned to the version in Vault that holds its newest secret",
    Remedy.ANNOTATE: "what the Vault UI shows of it is written anew",
    Remedy.NONE_NEEDED: "nothing: it opens, but cannot be rolled back until its next update",
    Remedy.WAIT: "a write is under way, or has just been cut short: look again later",
    Remedy.ROLL_BACK: "its secret is lost; the one before is there: its owner rolls back (POST …/rollback),"
    " or stores both keys anew (PATCH with both keys)",
    Remedy.STORE_ANEW: "its secret is lost: its owner stores both keys anew (PATCH with both keys)",
    Remedy.STORE_ANEW_OR_DELETE: "Vault has nothing of it: it was deleted after the backup, and its owner deletes it"
    " again; or it was stored after Vault's snapshot, and its owner stores both keys anew (PATCH with both keys)",
    Remedy.ALLOW_DECRYPTION: "its ciphertext is in Vault under a retired key version: an operator lowers the key's"
    " min_decryption_version in Vault to that version, runs this again, has it rewrapped, and retires again",
}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A credential that doesn't fit, and what to do about it. `repin` comes first, where there is one."""

    examined: Examined
    remedy: Remedy
    repin: Repin | None = None

    @property
    def credential(self) -> Credential:
        return self.examined.credential

    @property
    def can_be_mended(self) -> bool:
        """Whether `SkewMender.mend` does something about it."""
        return self.repin is not None or self.remedy is Remedy.ANNOTATE


@dataclass(frozen=True, slots=True)
class _Copies:
    """What a path's live KV versions were proved to hold: by secret version, newest first, as KeptPin each.

    `closed`: the versions that Vault doesn't try, as they are under a retired key version. Any may be the secret.
    """

    by_secret: Mapping[int, Sequence[KeptPin]]
    closed: frozenset[int]
    made: CopiesMade

    def usable(self, secret: int, *, own: KeptPin, made: bool) -> list[KeptPin]:
        """Copies of a secret. `own`: what Postgres pins; `made`: whether that has been copied since it was written.

        Above the pin is what Postgres has forgotten. Below it is a copy only where copies were made: a secret that was
        written once, at its pin, is nowhere else, and what looks like it is left of another write, which failed.
        """
        return [
            each
            for each in self.by_secret.get(secret, ())
            if each.kv_version > own.kv_version
            or (secret == own.secret_version and (made or each.kv_version == own.kv_version))
        ]

    def present(self, row: Credential) -> list[KeptPin]:
        """Copies of the newest secret there is, of the row's number or above."""
        own = _own(row)
        for secret in sorted(self.by_secret, reverse=True):
            if secret >= own.secret_version and (found := self.usable(secret, own=own, made=self.made.present)):
                return found
        return []

    def before(self, row: Credential, secret_version: int) -> list[KeptPin]:
        """Copies of the newest secret below this number, of the row's own or above."""
        own = _own(row)
        for secret in sorted(self.by_secret, reverse=True):
            is_between = own.secret_version <= secret < secret_version
            if is_between and (found := self.usable(secret, own=own, made=self.made.present)):
                return found
        return []

    def kept(self, row: Credential) -> list[KeptPin]:
        """Copies of the row's kept secret."""
        kept = _kept(row)
        return self.usable(kept.secret_version, own=kept, made=self.made.kept) if kept else []

    def kv_versions(self) -> set[int]:
        return {each.kv_version for copies in self.by_secret.values() for each in copies}


class SkewMender:
    """Says what can be done for a credential, and does it.

    Guarantees: a row is pinned only to what Vault has proved to hold that very secret of that very credential; its
    secret version never falls; a version that a write's intent accounts for is left to that write; a row that has been
    changed since it was looked at stays as it is; each move has its event. Does not: bring back what neither store
    has; nor tell a secret from what a failed write of the same number left, where the backup has that in KV, and the
    secret was rewrapped since (of an older Vault) or its commit is lost (of an older Postgres).
    """

    def __init__(self, store: SkewStore, ciphertexts: CiphertextStore, layout: VaultLayout) -> None:
        self._store = store
        self._ciphertexts = ciphertexts
        self._layout = layout

    async def diagnose(self, examined: Examined, keys: KeyRing) -> Diagnosis:
        """What can be done. Changes nothing; Vault's audit log has what was tried.

        Raises:
            CredentialUnreadable: the row was changed by hand to lead elsewhere.
        """
        row = examined.credential
        reference = self._layout.checked(row)
        intended = (await self._store.intended([reference.kv_path])).get(reference.kv_path, set())
        under_way = {version for version in intended if version > reference.kv_version} & examined.path.live
        batch_id = uuid.uuid4()
        found, closed = await self._proved(examined, examined.path.live - under_way, keys, batch_id)
        copies = _Copies(found, closed, await self._store.copies_made(row.id))
        repin = _repin(row, examined.path.live, copies, batch_id)
        return Diagnosis(examined, _remedy(examined, repin, copies, is_busy=bool(under_way)), repin)

    async def mend(self, diagnosis: Diagnosis, *, actor: str) -> bool:
        """Does what can be done. False: there was nothing, or the row has been changed since it was looked at."""
        row = diagnosis.credential
        if diagnosis.repin is not None:
            moved = await self._store.repin(diagnosis.repin, actor=actor)
            if moved is None:
                return False
            row = moved
        elif diagnosis.remedy is not Remedy.ANNOTATE:
            return False
        await self._ciphertexts.annotate(row.reference.kv_path, annotation(row))
        return True

    async def _proved(
        self, examined: Examined, versions: Collection[int], keys: KeyRing, batch_id: uuid.UUID
    ) -> tuple[Mapping[int, Sequence[KeptPin]], frozenset[int]]:
        """By secret version, the KV versions that hold it, newest first; and those that can't be told, being closed.

        What is no secret of the row's is left out.
        """
        row = examined.credential
        secrets = _secrets(examined)
        seals: list[tuple[int, Seal]] = []
        for version in sorted(versions, reverse=True)[:_VERSIONS]:
            try:
                seals.append((version, await self._ciphertexts.read(row.reference.kv_path, version)))
            except CredentialUnreadable:
                continue  # gone meanwhile, or no ciphertext
        tries = [(version, seal, secret) for version, seal in seals for secret in secrets]
        if not tries:
            return {}, frozenset()
        outcomes = await keys.rewrap(
            row.transit_key,
            [(seal.ciphertext, _context(row, secret)) for _, seal, secret in tries],
            batch_id=batch_id,
        )
        found: defaultdict[int, list[KeptPin]] = defaultdict(list)
        closed: set[int] = set()
        for (version, seal, secret), outcome in zip(tries, outcomes, strict=True):
            if isinstance(outcome, Seal):
                found[secret].append(
                    KeptPin(kv_version=version, secret_version=secret, transit_key_version=seal.transit_key_version)
                )
            elif isinstance(outcome, KeyVersionRetired):
                closed.add(version)
            elif not isinstance(outcome, CredentialUnreadable):
                raise outcome
        return found, frozenset(closed)


def _context(row: Credential, secret_version: int) -> bytes:
    # The row's user, as for a rewrap: what is bound to another doesn't fit.
    return context_of(row, replace(row.reference, secret_version=secret_version), user_id=row.user_id)


def _secrets(examined: Examined) -> list[int]:
    """The secret versions that a live KV version may hold: each of them took a KV version at least."""
    row, path = examined.credential, examined.path
    own = row.secret_version
    highest = own + max(0, path.newest - row.reference.kv_version)
    told = path.told("secret_version") or own
    likely: Iterable[int] = (*range(own, min(highest, own + _SECRETS) + 1), told - 1, told)
    found = {secret for secret in likely if own <= secret <= highest}
    return sorted(found | ({row.previous.secret_version} if row.previous else set()))


def _own(row: Credential) -> KeptPin:
    reference = row.reference
    return KeptPin(
        kv_version=reference.kv_version,
        secret_version=reference.secret_version,
        transit_key_version=reference.transit_key_version,
    )


def _kept(row: Credential) -> KeptPin | None:
    kept = row.previous
    if kept is None:
        return None
    return KeptPin(
        kv_version=kept.kv_version,
        secret_version=kept.secret_version,
        transit_key_version=kept.transit_key_version,
    )


def _repin(row: Credential, live: Collection[int], copies: _Copies, batch_id: uuid.UUID) -> Repin | None:
    """The row's move to where its secrets are; None where it is there, or none of them is anywhere."""
    own, kept = _own(row), _kept(row)
    to = next(iter(copies.present(row)), own)
    is_newer = to.secret_version > own.secret_version
    previous = next(iter(copies.before(row, to.secret_version) if is_newer else copies.kept(row)), None)
    if to == own and previous in (kept, None):
        return None
    pinned = {to.kv_version} | ({previous.kv_version} if previous else set())
    return Repin(
        before=row,
        kv_version=to.kv_version,
        secret_version=to.secret_version,
        transit_key_version=to.transit_key_version,
        previous=previous,
        previous_expires_at=row.previous.expires_at if previous and row.previous and not is_newer else None,
        # What the row has pinned is its own, be it under a key version that Vault does not try any more.
        discarded=sorted((copies.kv_versions() | row.pinned_versions.intersection(live)) - pinned),
        batch_id=batch_id,
    )


def _remedy(examined: Examined, repin: Repin | None, copies: _Copies, *, is_busy: bool) -> Remedy:
    row, kinds = examined.credential, examined.kinds
    if not copies.present(row):
        if is_busy:
            return Remedy.WAIT
        if copies.closed:
            # Which secret that is, shows once Vault decrypts it again; till then nothing is lost.
            return Remedy.ALLOW_DECRYPTION
        if row.previous and row.previous.expires_at > datetime.now(UTC) and copies.kept(row):
            return Remedy.ROLL_BACK
        if not examined.path.newest:
            return Remedy.STORE_ANEW_OR_DELETE
        closed = SkewKind.KEY_VERSION_RETIRED in kinds and SkewKind.PIN_GONE not in kinds
        return Remedy.ALLOW_DECRYPTION if closed else Remedy.STORE_ANEW
    if repin is not None:
        return Remedy.REPIN
    if SkewKind.SECRET_BEHIND in kinds:
        return Remedy.WAIT if is_busy else Remedy.STORE_ANEW
    if SkewKind.KEY_VERSION_BEHIND in kinds or SkewKind.ANNOTATION_BEHIND in kinds:
        return Remedy.ANNOTATE
    return Remedy.NONE_NEEDED
