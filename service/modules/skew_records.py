"""What is wrong where Vault and Postgres were restored to different moments, and what to do about it. No secrets.

A row is compared with what KV says of its path. Which of the two is the older one shows in what doesn't fit: a row that
is ahead of Vault, or a Vault that is ahead of the row.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from service.modules.event_chain import SealSkew
from service.modules.key_records import KeyDescription
from service.modules.records import Credential

_NAMED = 5
"""Ids in one line of text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathDescription:
    """What KV's metadata says of a path."""

    newest: int = 0
    """The newest version, live or not; 0 where there is no such path."""
    live: frozenset[int] = frozenset()
    annotation: Mapping[str, str] = field(default_factory=dict)
    """Custom metadata: written with each version, before its row is committed."""

    def told(self, name: str) -> int | None:
        """A number of the annotation's; None where it has none of that name."""
        value = self.annotation.get(name, "")
        return int(value) if value.isascii() and value.isdigit() and len(value) <= 18 else None


class SkewKind(StrEnum):
    """How a credential's row and Vault can fail to fit. In the order in which they matter."""

    PIN_GONE = "pin_gone"  # Vault is older; or Postgres is, and the version has been destroyed since
    KEY_VERSION_AHEAD = "key_version_ahead"  # Vault is older
    SECRET_BEHIND = "secret_behind"  # noqa: S105 - no password: Postgres is older
    KEY_VERSION_BEHIND = "key_version_behind"  # Postgres is older: a rewrap is not in it
    KEY_VERSION_RETIRED = "key_version_retired"  # Postgres is older: a rewrap and a retirement are not in it
    PREVIOUS_GONE = "previous_gone"
    ANNOTATION_BEHIND = "annotation_behind"  # of no consequence: it is what people see

    @property
    def matters(self) -> bool:
        """Whether it is told of without being asked for."""
        return self not in (SkewKind.PREVIOUS_GONE, SkewKind.ANNOTATION_BEHIND)

    @property
    def meaning(self) -> str:
        """The same in words."""
        return _MEANINGS[self]


_MEANINGS = {
    SkewKind.PIN_GONE: "its ciphertext is not in Vault, so it does not open",
    SkewKind.KEY_VERSION_AHEAD: "its key version is one that Vault's key has not come to",
    SkewKind.SECRET_BEHIND: "Vault has seen a newer secret than Postgres knows of, so an older one opens or none",
    SkewKind.KEY_VERSION_BEHIND: "Vault has it under a newer key version than Postgres knows of",
    SkewKind.KEY_VERSION_RETIRED: "Vault decrypts nothing any more that is under its key version, so it does not open",
    SkewKind.PREVIOUS_GONE: "the secret before its last update is not in Vault, so it cannot be rolled back",
    SkewKind.ANNOTATION_BEHIND: "what the Vault UI shows of it is out of date",
}


def judge(
    row: Credential, path: PathDescription, key: KeyDescription | None, now: datetime, *, under_way: bool = False
) -> tuple[SkewKind, ...]:
    """What doesn't fit. The row has to have been read before `path` and `key`.

    `under_way`: some intent accounts for a version above the row's pin. That is a write that hasn't been committed, or
    never will be, and its annotation says nothing about the row.
    """
    reference, kinds = row.reference, []
    if reference.kv_version not in path.live:
        kinds.append(SkewKind.PIN_GONE)
    if key is not None and reference.transit_key_version > key.latest_version:
        kinds.append(SkewKind.KEY_VERSION_AHEAD)
    if key is not None and reference.transit_key_version < key.min_decryption_version:
        kinds.append(SkewKind.KEY_VERSION_RETIRED)
    secret, version = path.told("secret_version"), path.told("transit_key_version")
    if not under_way and secret is not None and version is not None:
        told, pinned = (secret, version), (reference.secret_version, reference.transit_key_version)
        if secret > reference.secret_version:
            kinds.append(SkewKind.SECRET_BEHIND)
        elif told > pinned:
            kinds.append(SkewKind.KEY_VERSION_BEHIND)
        elif told < pinned and reference.kv_version in path.live:
            kinds.append(SkewKind.ANNOTATION_BEHIND)
    if row.previous is not None and row.previous.expires_at > now and row.previous.kv_version not in path.live:
        kinds.append(SkewKind.PREVIOUS_GONE)
    return tuple(sorted(kinds, key=list(SkewKind).index))


@dataclass(frozen=True, slots=True)
class Examined:
    """A credential that was compared with Vault. `kinds` is empty where it fits."""

    credential: Credential
    path: PathDescription
    kinds: tuple[SkewKind, ...]

    @property
    def matters(self) -> bool:
        return any(kind.matters for kind in self.kinds)

    @property
    def meaning(self) -> str:
        """What is wrong, in words."""
        return "; ".join(kind.meaning for kind in self.kinds)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySkew:
    """A transit key that is behind what Postgres says of it, or was, and has made versions anew since.

    `remade`: credentials that were pinned under a version before Vault made it. Their ciphertexts are under another
    version of that number, which is gone, or under an older one, in a Vault that was restored.
    """

    key: str
    latest_version: int  # 0: Vault has no such key
    floor: int
    credentials: int  # above the newest version
    counted_all: bool  # False: there are more
    first_ids: tuple[UUID, ...]
    remade: int
    remade_all: bool  # False: there are more
    remade_ids: tuple[UUID, ...]  # the first of them

    @property
    def meaning(self) -> str:
        """What is wrong and what to do, in words."""
        told = f"Vault's newest version of {self.key} is {self.latest_version}"
        if self.credentials:
            many = f"{self.credentials}{'' if self.counted_all else ' or more'}"
            told += f", and {many} credentials are under later ones: {first_ids(self.first_ids, self.credentials)}"
        if self.floor > self.latest_version:
            told += (
                f". Nothing can be stored under it, as versions below {self.floor} are retired: "
                f"rotate it until its newest version is {self.floor}"
            )
        if self.remade:
            many = f"{self.remade}{'' if self.remade_all else ' or more'}"
            told += (
                f". {many} credentials were pinned under a version of it before Vault made that one, so it was made "
                f"anew after a restore, and no version may be retired or trimmed before these are mended: "
                f"{first_ids(self.remade_ids, self.remade)}"
            )
        return told


@dataclass(slots=True, kw_only=True)
class SkewReport:
    """What a look at both found."""

    keys: list[KeySkew] = field(default_factory=list)
    seals: SealSkew | None = None
    credentials: list[Examined] = field(default_factory=list)
    """Those that don't fit."""
    examined: int = 0
    complete: bool = False
    """Every row was compared with KV."""

    @property
    def fits(self) -> bool:
        """Whether nothing that matters was found."""
        return not (self.keys or self.seals or any(each.matters for each in self.credentials))

    @property
    def credential_ids(self) -> list[UUID]:
        """Of the credentials that don't fit, as far as they are known."""
        found = [each.credential.id for each in self.credentials if each.matters]
        found += [each for key in self.keys for each in (*key.first_ids, *key.remade_ids)]
        return list(dict.fromkeys(found))

    def advice(self, *, named: bool = True) -> str | None:
        """How many, the first ids, and what to do; with `named` false what strangers may read, so without ids. None
        where everything fits."""
        if self.fits:
            return None
        told = ["Vault and Postgres are of different moments, as after a restore of one of them."]
        ids, above = self.credential_ids, sum(key.credentials + key.remade for key in self.keys)
        if ids:
            exact, many = self.complete and not self.keys, max(len(ids), above)
            told.append(f"{'Not fitting' if exact else 'Not fitting, at least'}: {many}.")
            if named:
                told.append(f"{first_ids(ids, many)}.")
        if any(key.floor > key.latest_version for key in self.keys):
            told.append("Nothing can be stored until a transit key has been rotated.")
        if any(key.remade for key in self.keys):
            told.append("Vault made versions of a transit key anew: retire or trim none before this is mended.")
        if self.seals is not None:
            told.append(SEALS[self.seals])
        told.append("See `vault-credentials doctor --full`, then `vault-credentials reconcile --skew`.")
        return " ".join(told)


SEALS = {
    SealSkew.CUT: "Postgres lacks sealed events that Vault knows of: it is the older one.",
    SealSkew.FORKED: "Postgres has other sealed events than Vault knows of: it is, or was, the older one.",
    SealSkew.MALFORMED: "What Vault has as its note of the newest seal is no seal: somebody has written over it.",
}
SEALS_REMEDY = (
    "see `vault-credentials events verify`; where a restore explains it, and what can be mended is, "
    "delete the anchor (vault kv metadata delete, path event-seal of the KV mount): the next seal is anchored anew"
)


def first_ids(ids: Iterable[UUID], count: int) -> str:
    """Some of so many, in words."""
    named: Sequence[str] = [str(each) for each in ids][:_NAMED]
    return ", ".join(named) + (", …" if count > len(named) else "")
