"""Idempotency-Key: the same request sent again is answered again, not done again.

The body is remembered as an HMAC under a key that only Vault has: what holds the table learns nothing of the secrets in
it, not even by guessing. (https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/)
"""

import hashlib
from dataclasses import dataclass
from uuid import UUID

from service.errors import IdempotencyMismatch
from service.memory.plaintext import Plaintext
from service.modules.ports import Cipher, CredentialStore
from service.modules.records import IdempotencyRecord, OwnerAccess


@dataclass(frozen=True, slots=True)
class RequestDigest:
    """A request body's SHA-256. It is shown by no `repr`: a digest of a weak secret can be guessed at."""

    _digest: bytes

    @classmethod
    def of(cls, *parts: str | Plaintext) -> "RequestDigest":
        """Of the body's fields in order, each with its length, so that no two bodies run into the same bytes."""
        digest = hashlib.sha256()
        for part in parts:
            value = part.reveal() if isinstance(part, Plaintext) else part.encode("utf-8")
            digest.update(len(value).to_bytes(8, "big"))
            digest.update(value)
        return cls(digest.digest())

    def reveal(self) -> bytes:
        return self._digest

    def __repr__(self) -> str:
        return "RequestDigest(**********)"


class Idempotency:
    """Remembers what was stored under an Idempotency-Key, for as long as the settings say.

    Scoped by who calls, for whom, and the route: one caller's key never answers another's.
    """

    def __init__(self, store: CredentialStore, cipher: Cipher, *, transit_key: str) -> None:
        self._store = store
        self._cipher = cipher
        self._transit_key = transit_key

    async def find(self, access: OwnerAccess, route: str, key: str, digest: RequestDigest) -> UUID | None:
        """The credential that this request stored before; None where it is new.

        Raises:
            IdempotencyMismatch: the key was used with another body.
        """
        record = await self._store.find_idempotent(access.actor, access.user_id, route, key)
        if record is None:
            return None
        if not await self._cipher.hmac_matches(self._transit_key, digest.reveal(), record.body_mac):
            raise IdempotencyMismatch
        return record.credential_id

    async def record(
        self, access: OwnerAccess, route: str, key: str, digest: RequestDigest, credential_id: UUID
    ) -> IdempotencyRecord:
        """What the store's last transaction is to remember."""
        return IdempotencyRecord(
            actor=access.actor,
            user_id=access.user_id,
            route=route,
            key=key,
            body_mac=await self._cipher.hmac(self._transit_key, digest.reveal()),
            credential_id=credential_id,
        )
