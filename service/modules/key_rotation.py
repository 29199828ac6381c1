"""Rotating a key and retiring its old versions: jobs that are one step in Vault, and must not be taken twice."""

from service.modules.key_ports import KeyRing, RotationStore
from service.modules.key_records import Job, JobReason, KeyDescription
from service.modules.skew import SkewDetector


class KeyRotation:
    """Does jobs that rotate or retire.

    Guarantees: killed at any point and begun again, by whomever, a rotation makes one new version; a version is
    retired only when Postgres, asked while no write can commit, has nothing below it, and nothing was found that says
    that Postgres and Vault were restored to different moments. Does not: see a rotation whose
    request is still on its way to Vault when it is given up and begun again: then there are two new versions, which
    costs nothing; nor keep somebody with the right in Vault from lowering `min_decryption_version` again.
    """

    def __init__(self, store: RotationStore, keys: KeyRing, skew: SkewDetector) -> None:
        self._store = store
        self._keys = keys
        self._skew = skew

    async def rotate(self, job: Job) -> bool:
        """Takes a rotation to its end. Returns False where another worker is at it.

        Raises:
            CredentialsError: it is not over, and may be begun again.
        """
        async with self._store.hold(job) as is_held:
            if not is_held:
                return False
            job = await self._store.job(job.id)
            if job.state.is_over:
                return True
            newest = (await self._describe(job)).latest_version
            if job.from_version is None or newest <= job.from_version:
                if job.stop_requested_by is not None:
                    await self._store.end(job, reason=JobReason.STOPPED)
                    return True
                # Committed before Vault is asked: a newer version, found by who goes on with this, is this one's.
                await self._store.note_start(job, from_version=newest, to_version=None)
                await self._keys.rotate(job.transit_key)
                newest = (await self._describe(job)).latest_version
            await self._store.end(job, reason=None, to_version=newest)
        return True

    async def retire(self, job: Job) -> bool:
        """Takes a retirement to its end. Returns and raises as `rotate`."""
        version = job.below_version
        assert version is not None  # noqa: S101 - the table has a check
        async with self._store.hold(job) as is_held:
            if not is_held:
                return False
            job = await self._store.job(job.id)
            if not job.state.is_over:
                await self._store.end(job, reason=await self._retire_below(job, version))
        return True

    async def _describe(self, job: Job) -> KeyDescription:
        """The key, with its versions' dates noted: once they are retired, Vault tells them no more."""
        key = await self._keys.describe(job.transit_key)
        await self._store.note_versions(key)
        return key

    async def _retire_below(self, job: Job, version: int) -> JobReason | None:
        if job.stop_requested_by is not None:
            return JobReason.STOPPED
        key = await self._describe(job)
        if version > key.latest_version:
            return JobReason.NO_SUCH_VERSION
        # Vault would refuse, after the floor was raised.
        if 0 < key.min_encryption_version < version:
            return JobReason.VAULT_KEEPS_ENCRYPTING
        # After a restore of one of them, Postgres may name versions that the ciphertexts in Vault aren't under.
        if not (await self._skew.for_retirement(job.transit_key)).fits:
            return JobReason.SKEW
        # From here on no write commits under an older version; what is under way with one is sealed again.
        if await self._store.raise_floor(job, job.transit_key, version):
            return JobReason.STILL_NEEDED
        if key.min_decryption_version < version:
            await self._keys.set_min_decryption_version(job.transit_key, version)
        return None
