"""The transit keys: their versions, what is encrypted under each, and what can be retired without losing anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from service.errors import KeyNotFound
from service.modules.key_ports import KeyReader, KeyStore
from service.modules.key_records import Job, JobKind, KeyDescription, VersionUse
from service.modules.records import KeyAdminAccess, KeyReadAccess
from service.modules.vault_layout import VaultLayout

KeyAccess = KeyReadAccess | KeyAdminAccess

_RECENT_JOBS = 20


class VersionState(StrEnum):
    """What can be done with a version of a key."""

    IN_USE = "in_use"  # something is encrypted under it, or it is the newest
    UNUSED = "unused"  # nothing is under it, but something is under an older one
    SAFE_TO_RETIRE = "safe_to_retire"  # nothing is under it, nor under any older one
    RETIRED = "retired"  # Vault decrypts nothing that is under it
    TRIMMED = "trimmed"  # gone from Vault for good
    MISSING = "missing"  # credentials name it, and Vault's key is not that far


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyVersion:
    """One version of a key. `created_from`: `vault`, or `noted` where a job has noted what Vault told."""

    version: int
    state: VersionState
    created_at: datetime | None
    created_from: str | None
    use: VersionUse


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyStatus:
    """A transit key. Of `warnings`, each is a sentence for an operator, of fixed words and numbers."""

    credential_type: str
    vault: KeyDescription
    floor: int
    safe_to_retire_below: int  # retiring below this one loses nothing, as far as is known now
    next_rotation_at: datetime | None  # by Vault itself; None where it does not rotate this key
    encryptions: int  # under the newest version, that this service's events know of
    versions: Sequence[KeyVersion]
    warnings: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyReport:
    """A key, and what was done with it: its newest jobs first."""

    status: KeyStatus
    jobs: Sequence[Job]

    @property
    def rewrap_under_way(self) -> Job | None:
        return next((job for job in self.jobs if job.kind is JobKind.REWRAP and not job.state.is_over), None)


class KeyInventory:
    """Looks at Vault's keys and at what Postgres has under each version.

    Guarantees: nothing is changed; no name but those of known credential types is asked of Vault. What Postgres tells
    is read before what Vault tells, and both again where they don't fit: a rotation or retirement in between is not
    mistaken for trouble. Does not: lock anything, so all of it may be out of date when it is read; retiring counts
    again, behind a lock.
    """

    def __init__(self, reader: KeyReader, store: KeyStore, layout: VaultLayout) -> None:
        self._reader = reader
        self._store = store
        self._types = {layout.transit_key(each): each for each in sorted(layout.credential_types)}

    async def keys(self, access: KeyAccess) -> list[KeyStatus]:
        """A key for each known credential type that this installation has one for."""
        found = []
        for name in self._types:
            try:
                found.append(await self.key(access, name))
            except KeyNotFound:
                continue
        return found

    async def key(self, _access: KeyAccess, name: str) -> KeyStatus:
        """One key. Raises KeyNotFound for what is no credential type's key, and where Vault or Postgres has none."""
        return (await self._looked_at(name)).status

    async def report(self, _access: KeyAccess, name: str) -> KeyReport:
        """One key with its newest jobs. Raises as `key`."""
        return await self._looked_at(name)

    def checked(self, name: str) -> str:
        """The name of a key of this service. Raises KeyNotFound."""
        if name not in self._types:
            raise KeyNotFound
        return name

    async def _looked_at(self, name: str) -> KeyReport:
        report = await self._look(self.checked(name))
        return await self._look(name) if report.status.warnings else report

    async def _look(self, name: str) -> KeyReport:
        jobs = await self._store.jobs(name, _RECENT_JOBS)
        floor = await self._store.floor(name)
        uses = {use.version: use for use in await self._store.version_uses(name)}
        noted = await self._store.noted_versions(name)
        vault = await self._reader.describe(name)
        created = vault.created.get(vault.latest_version)
        status = KeyStatus(
            credential_type=self._types[name],
            vault=vault,
            floor=floor,
            safe_to_retire_below=_safe_below(vault, uses),
            next_rotation_at=_next_rotation(created, vault.auto_rotate_period),
            encryptions=await self._store.encryptions(name, vault.latest_version),
            versions=_versions(vault, uses, noted),
            warnings=_warnings(vault, floor, uses, jobs),
        )
        return KeyReport(status=status, jobs=jobs)


def _safe_below(vault: KeyDescription, uses: Mapping[int, VersionUse]) -> int:
    return min([vault.latest_version, *uses])


def _next_rotation(created: datetime | None, period: timedelta | None) -> datetime | None:
    return created + period if created is not None and period is not None else None


def _versions(vault: KeyDescription, uses: Mapping[int, VersionUse], noted: Mapping[int, datetime]) -> list[KeyVersion]:
    """Newest first. Trimmed versions are told of where a job has noted one, or something is still under it."""
    there = range(max(1, vault.min_available_version), vault.latest_version + 1)
    # One above Vault's newest is no version of today's key: Vault was restored.
    trimmed = {version for version in noted if version < vault.min_available_version}
    return [
        KeyVersion(
            version=version,
            state=_state(version, vault, uses),
            created_at=vault.created.get(version, noted.get(version)),
            created_from="vault" if version in vault.created else "noted" if version in noted else None,
            use=uses.get(version) or _nothing(version),
        )
        for version in sorted({*there, *trimmed, *uses}, reverse=True)
    ]


def _state(version: int, vault: KeyDescription, uses: Mapping[int, VersionUse]) -> VersionState:
    if version > vault.latest_version:
        return VersionState.MISSING
    if version < vault.min_available_version:
        return VersionState.TRIMMED
    if version < vault.min_decryption_version:
        return VersionState.RETIRED
    if version in uses or version == vault.latest_version:
        return VersionState.IN_USE
    return VersionState.SAFE_TO_RETIRE if version < _safe_below(vault, uses) else VersionState.UNUSED


def _nothing(version: int) -> VersionUse:
    return VersionUse(version=version, credentials=0, previous_secrets=0, oldest_id=None, oldest_created_at=None)


def _warnings(vault: KeyDescription, floor: int, uses: Mapping[int, VersionUse], jobs: Sequence[Job]) -> list[str]:
    retiring = any(job.kind is JobKind.RETIRE and not job.state.is_over for job in jobs)
    warnings = []
    if vault.min_decryption_version < floor and not retiring:
        warnings.append(
            f"Versions below {floor} were retired, but Vault decrypts from version {vault.min_decryption_version} on:"
            " somebody lowered min_decryption_version, or a retirement did not get to its end."
            f" Retire below {floor} again, or find out who lowered it."
        )
    closed = _held([use for use in uses.values() if use.version < vault.min_decryption_version])
    if closed:
        oldest = min(uses)
        warnings.append(
            f"{closed} under versions that Vault does not decrypt any more, so they do not open:"
            f" lower min_decryption_version to {oldest} in Vault, rewrap, then retire here."
            if oldest >= vault.min_available_version
            else f"{closed} under versions that have been trimmed in Vault: they do not open, and have to be stored"
            " again."
        )
    ahead = _held([use for use in uses.values() if use.version > vault.latest_version])
    if ahead:
        warnings.append(
            f"{ahead} under versions above {vault.latest_version}, which is Vault's newest:"
            " Vault was restored to an earlier state than Postgres. See /readyz and `vault-credentials doctor`."
        )
    return warnings


def _held(uses: Sequence[VersionUse]) -> str:
    """How much is under these, in words; nothing where there is nothing."""
    credentials, previous = sum(use.credentials for use in uses), sum(use.previous_secrets for use in uses)
    return f"{credentials} credentials and {previous} kept previous secrets are" if credentials or previous else ""
