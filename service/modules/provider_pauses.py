"""Providers that asked to be left alone for a while, and about which credential."""

import time
from uuid import UUID

from service.errors import ProviderUnavailable
from service.modules.records import Credential

_REMEMBERED = 10_000


class ProviderPauses:
    """Remembers a provider's Retry-After for the credential that it was said about.

    Guarantees: `check` refuses for as long as the provider asked for (the caller of `note` bounds that), and tells what
    is left; memory is bounded. Does not: outlive the process or reach another one; where ten thousand are remembered,
    the oldest is forgotten. New keys are asked about at once.
    """

    def __init__(self, remembered: int = _REMEMBERED) -> None:
        self._remembered = remembered
        self._until: dict[tuple[UUID, int], tuple[float, type[ProviderUnavailable]]] = {}

    def note(self, credential: Credential, error: ProviderUnavailable) -> None:
        """The provider could not be asked about this credential, and perhaps said for how long."""
        if not error.retry_after:
            return
        key = credential.id, credential.secret_version
        self._until.pop(key, None)
        if len(self._until) >= self._remembered:
            del self._until[next(iter(self._until))]
        self._until[key] = time.monotonic() + error.retry_after, type(error)

    def check(self, credential: Credential) -> None:
        """Raises the error that was noted, with the seconds that are left, until they are over."""
        key = credential.id, credential.secret_version
        if key not in self._until:
            return
        until, kind = self._until[key]
        left = until - time.monotonic()
        if left > 0:
            raise kind(retry_after=left)
        del self._until[key]
