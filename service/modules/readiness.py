"""Whether this process can do its work: each thing it needs, tried for real."""

import asyncio
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from service.errors import CredentialsError
from service.memory.plaintext import Plaintext
from service.modules.ports import Cipher

_FRESH_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Check:
    """What came of trying one thing; `detail` is fixed public text.

    `blocking`: without it nothing can be done for anybody. What isn't concerns some credentials alone.
    """

    name: str
    ok: bool
    detail: str
    blocking: bool = True


_LEAVING = Check("process", False, "This process is about to stop.")


class Readiness:
    """Tries everything that a request may need, side by side.

    Guarantees: at most one round a second, however many ask, since whoever asks needs no token. Does not: notice what
    changed within that second.
    """

    def __init__(
        self,
        probes: dict[str, Callable[[], Awaitable[None]]],
        *,
        advisers: dict[str, Callable[[], Awaitable[str | None]]] | None = None,
        timeout: float,
    ) -> None:
        """`advisers` say in public words what is wrong with some credentials, or None."""
        self._probes = probes
        self._advisers = advisers or {}
        self._timeout = timeout
        self._round = asyncio.Lock()
        self._last: list[Check] = []
        self._tried_at = float("-inf")
        self._is_leaving = False

    def withdraw(self) -> None:
        """From now on this process says that it is not ready, whatever works: it is about to stop."""
        self._is_leaving = True

    async def check(self) -> list[Check]:
        """One result for each probe and adviser; never raises."""
        if self._is_leaving:
            return [_LEAVING]
        async with self._round:
            if time.monotonic() - self._tried_at >= _FRESH_SECONDS:
                tries = [self._try(name, probe) for name, probe in self._probes.items()]
                tries += [self._try(name, adviser, blocking=False) for name, adviser in self._advisers.items()]
                self._last = list(await asyncio.gather(*tries))
                self._tried_at = time.monotonic()
            return [_LEAVING] if self._is_leaving else self._last

    async def _try(self, name: str, probe: Callable[[], Awaitable[str | None]], *, blocking: bool = True) -> Check:
        try:
            async with asyncio.timeout(self._timeout):
                problem = await probe()
        except CredentialsError as error:
            problem = str(error)
        except TimeoutError:
            problem = "No answer in time."
        return Check(name, problem is None, problem or "ok", blocking)


def canary(cipher: Cipher, transit_key: str) -> Callable[[], Awaitable[None]]:
    """A probe that encrypts and decrypts random bytes with a real key, under the service's own policy."""

    async def probe() -> None:
        context = secrets.token_bytes(160)
        expected = secrets.token_bytes(16)
        with Plaintext(bytearray(expected)) as plaintext:
            (seal,) = await cipher.encrypt(transit_key, [(plaintext, context)])
        if isinstance(seal, Exception):
            raise seal
        (opened,) = await cipher.decrypt(transit_key, [(seal.ciphertext, context)], batch_ids=[uuid.uuid4()])
        if isinstance(opened, Exception):
            raise opened
        with opened:
            if opened.reveal() != expected:
                raise CredentialsError("Vault decrypted something else than it encrypted.")

    return probe
