"""What hand-offs need from outside, as protocols: `vault/` and `postgres/` implement them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from service.memory.plaintext import Plaintext
from service.modules.records import OwnerAccess


@dataclass(frozen=True, slots=True)
class WrappedPair:
    """A decrypted pair that Vault keeps, for whoever brings the token first."""

    token: Plaintext
    """Worth the plaintext, and masked like it. Whoever holds it wipes it."""
    creation_path: str
    """What `sys/wrapping/lookup` says of a token that Vault made for this: `<mount>/decrypt/<key>`."""
    expires_at: datetime
    """By Vault's clock."""


class Wrapper(Protocol):
    """Vault's transit engine, whose answer stays in Vault."""

    async def decrypt_wrapped(
        self, key: str, ciphertext: str, context: bytes, *, batch_id: UUID, seconds: int
    ) -> WrappedPair:
        """Has it decrypted and kept for `seconds`. Asked once: see `TransitWrapper`.

        Raises:
            CiphertextRejected, KeyVersionRetired: it does not decrypt; nothing was wrapped.
            VaultDenied, VaultRefused, VaultUnavailable's kinds: as for any request.
        """
        ...


class HandOffLog(Protocol):
    """The record of what came of hand-offs."""

    async def record_unwrap_failure(
        self, access: OwnerAccess, credential_id: UUID, handoff_id: UUID, reason: str
    ) -> bool:
        """Records that a wrapping token could not be unwrapped; once for each reason, unless said twice at a time.

        False, and nothing is recorded, where there is no such hand-off of this credential, by this caller for this
        user, in the last quarter of an hour.
        """
        ...
