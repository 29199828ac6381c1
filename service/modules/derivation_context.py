"""The derivation context: what a ciphertext is bound to. It opens as exactly this, or not at all (invariants 3, 4)."""

import hashlib
from uuid import UUID

from service.modules.records import Credential, TransitReference

_FORMAT = b"vcred\x00\x01\x00"
"""Eight bytes; the last but one counts formats."""


def derivation_context(
    *,
    binding: bytes,
    user_id: str,
    account_id: UUID,
    credential_id: UUID,
    secret_version: int,
    credential_type: str,
) -> bytes:
    """The transit `context` of one secret: 144 bytes, every field of fixed length, so no two differ in meaning alone.

    `user_id` is the owner as authenticated, not as read from the row: a row given to another owner then derives
    another key. `binding` is the row's 32 random bytes, without which nobody derives the key at all.

    Vault's context survives `rewrap`, which `associated_data` does not (hashicorp/vault#29532).
    """
    if len(binding) != 32:
        raise ValueError("binding must be 32 bytes")
    return b"".join(
        (
            _FORMAT,
            binding,
            hashlib.sha256(user_id.encode("utf-8")).digest(),
            account_id.bytes,
            credential_id.bytes,
            secret_version.to_bytes(8, "big"),
            hashlib.sha256(credential_type.encode("utf-8")).digest(),
        )
    )


def context_of(credential: Credential, reference: TransitReference, *, user_id: str) -> bytes:
    """The context of one of a credential's secrets: the present one, or the previous one by another `reference`.

    `user_id` is for the caller to say: the row's would bind the ciphertext to whatever is written there.
    """
    return derivation_context(
        binding=reference.binding,
        user_id=user_id,
        account_id=credential.account_id,
        credential_id=credential.id,
        secret_version=reference.secret_version,
        credential_type=credential.credential_type,
    )
