"""Encryptions and decryptions that are asked for at the same time, as one request to Vault for each transit key."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from service.correlation import note_batch
from service.measures import BatchMeter
from service.memory.plaintext import Plaintext
from service.modules.coalescer import BatchLimits, Coalescer
from service.modules.ports import Cipher
from service.modules.records import Seal


@dataclass(frozen=True, slots=True)
class _Sealed:
    ciphertext: str
    context: bytes
    batch_id: UUID


class CipherBatches:
    """`Cipher`, one item at a time for the caller, in batches for Vault.

    Guarantees: what `Coalescer` does, for each key; a plaintext whose caller has gone is wiped; a bad item fails
    alone. Does not: authorise or record anything.
    """

    def __init__(
        self,
        cipher: Cipher,
        limits: BatchLimits,
        *,
        encryptions: BatchMeter | None = None,
        decryptions: BatchMeter | None = None,
    ) -> None:
        """`decryptions` is not told of `decrypt_batch`'s, which somebody else has gathered."""
        self._cipher = cipher
        self._limits = limits
        self._meters = encryptions, decryptions
        self._encrypting: dict[str, Coalescer[tuple[Plaintext, bytes], tuple[Seal, UUID]]] = {}
        self._decrypting: dict[str, Coalescer[_Sealed, Plaintext]] = {}

    async def encrypt(self, key: str, plaintext: Plaintext, context: bytes, *, user_id: str) -> Seal:
        """Encrypts a plaintext, which stays the caller's to wipe. Raises Busy, and what `Cipher.encrypt` does.

        A caller that gives up may wipe it at once: what is then encrypted is zeros, for nobody.
        """
        coalescer = self._encrypting.get(key)
        if coalescer is None:

            async def run(items: list[tuple[Plaintext, bytes]]) -> Sequence[tuple[Seal, UUID] | Exception]:
                batch_id = uuid.uuid4()
                sealed = await self._cipher.encrypt(key, items, batch_id=batch_id)
                return [each if isinstance(each, Exception) else (each, batch_id) for each in sealed]

            coalescer = self._encrypting[key] = Coalescer(
                run, self._limits, name=f"encrypt {key}", meter=self._meters[0]
            )
        seal, batch_id = await coalescer.call(
            (plaintext, context), group=user_id, size=2 * len(plaintext) + len(context)
        )
        note_batch(batch_id)
        return seal

    async def decrypt(self, key: str, ciphertext: str, context: bytes, *, batch_id: UUID, user_id: str) -> Plaintext:
        """Decrypts a ciphertext, for the caller to wipe. Raises Busy, and what `Cipher.decrypt` does."""
        coalescer = self._decrypting.get(key)
        if coalescer is None:

            async def run(items: list[_Sealed]) -> Sequence[Plaintext | Exception]:
                return await self.decrypt_batch(
                    key,
                    [(item.ciphertext, item.context) for item in items],
                    batch_ids=list(dict.fromkeys(item.batch_id for item in items)),
                )

            coalescer = self._decrypting[key] = Coalescer(
                run, self._limits, discard=Plaintext.wipe, name=f"decrypt {key}", meter=self._meters[1]
            )
        item = _Sealed(ciphertext, context, batch_id)
        return await coalescer.call(item, group=user_id, size=len(ciphertext) + len(context))

    async def decrypt_batch(
        self, key: str, items: Sequence[tuple[str, bytes]], *, batch_ids: Sequence[UUID]
    ) -> list[Plaintext | Exception]:
        """A batch that somebody has gathered already, at once."""
        return await self._cipher.decrypt(key, items, batch_ids=batch_ids)

    async def aclose(self) -> None:
        """Ends what is under way."""
        for encrypting in self._encrypting.values():
            await encrypting.aclose()
        for decrypting in self._decrypting.values():
            await decrypting.aclose()
