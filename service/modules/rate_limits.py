"""How often: so many uses in any minute by each caller, and so many for each user. Counted in this process alone.

Our own, as nothing published fits: `limits`, the best kept, walks all its names in a task of its own at each use, has
no bound on their number, and can't take two limits as one.
"""

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Literal, Protocol

from service.errors import RateLimited
from service.modules.input_checks import check_user_id
from service.modules.records import OwnerAccess

WINDOW = 60
"""Seconds that a limit is about."""

MAX_NAMES = 50_000
"""Users, or callers, that are counted at a time for one kind of use: 20 MB when there are so many."""

# A use is noted by the second it was in, and counts until it is a whole window old wherever in that second it was.
_COUNTS_FOR = WINDOW + 1

Limit = Literal["caller", "user"]


class Use(StrEnum):
    """What is counted, each by itself."""

    OPEN = "open"  # by the library
    HAND_OFF = "handoff"
    VALIDATE = "validate"
    PROXY = "proxy"


class RateSettings(Protocol):
    """What `Settings` tells of limits: how many in a minute; 0: no limit."""

    @property
    def opens_per_minute(self) -> int: ...
    @property
    def opens_per_minute_caller(self) -> int: ...
    @property
    def handoffs_per_minute(self) -> int: ...
    @property
    def handoffs_per_minute_caller(self) -> int: ...
    @property
    def validations_per_minute(self) -> int: ...
    @property
    def validations_per_minute_caller(self) -> int: ...
    @property
    def proxy_calls_per_minute(self) -> int: ...
    @property
    def proxy_calls_per_minute_caller(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Standing:
    """How one limit stands for somebody."""

    limit: Limit
    quota: int
    remaining: int
    seconds: int
    """Until there is more again; 0 where nothing was used."""


class RateLimits:
    """Counts uses, and refuses those that are too many.

    Guarantees: of one name no more than its quota are let through in any 60 seconds, those at the same time included; a
    use counts for 60 to 61; what is refused counts nowhere, so a caller that keeps asking is let in as soon as there is
    room, and one user's limit costs the caller nothing of its own; a refusal needs nothing but this process's memory;
    that has a bound, whoever is named. Does not: know of other processes, or of other event loops' limits; keep a name
    that `MAX_NAMES` others have been used after within the minute (it is new again then). From one thread.
    """

    def __init__(self, settings: RateSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds that never go back."""
        self._clock = clock
        quotas = {
            Use.OPEN: (settings.opens_per_minute_caller, settings.opens_per_minute),
            Use.HAND_OFF: (settings.handoffs_per_minute_caller, settings.handoffs_per_minute),
            Use.VALIDATE: (settings.validations_per_minute_caller, settings.validations_per_minute),
            Use.PROXY: (settings.proxy_calls_per_minute_caller, settings.proxy_calls_per_minute),
        }
        self._limits: dict[Use, list[_Limit]] = {}
        for use, (caller, user) in quotas.items():
            both = _Limit("caller", caller), _Limit("user", user)
            self._limits[use] = [limit for limit in both if limit.quota]
        self.refused: Counter[tuple[Use, Limit]] = Counter()
        """How many uses each limit has refused."""

    def take(self, use: Use, access: OwnerAccess) -> None:
        """Counts one use, against both limits or neither.

        Raises:
            RateLimited: one of them has no room; `retry_after` says when both may have.
            InvalidInput: names the user or the actor: it can't be one's name.
        """
        limits = self._limits[use]
        if not limits:
            return
        check_user_id(access.user_id)
        check_user_id(access.actor, "actor")
        named = _named(limits, access)
        now = self._clock()
        full = [(limit, name) for limit, name in named if limit.used(name, now) >= limit.quota]
        if full:
            self.refused.update((use, limit.name) for limit, _name in full)
            raise RateLimited(retry_after=max(limit.wait(name, now) for limit, name in full))
        for limit, name in named:
            limit.count(name, now)

    def standings(self, use: Use, access: OwnerAccess) -> list[Standing]:
        """How the limits there are stand for this caller and this user: the caller's, the user's. Counts nothing."""
        now = self._clock()
        return [limit.standing(name, now) for limit, name in _named(self._limits[use], access)]


class _Limit:
    """One quota for each of many names."""

    def __init__(self, name: Limit, quota: int) -> None:
        self.name = name
        self.quota = quota
        self._counts: OrderedDict[bytes, _Counts] = OrderedDict()  # whose last use is longest ago comes first

    def standing(self, name: bytes, now: float) -> Standing:
        remaining = max(0, self.quota - self.used(name, now))
        return Standing(self.name, self.quota, remaining, math.ceil(self.wait(name, now)))

    def used(self, name: bytes, now: float) -> int:
        counts = self._counts.get(name)
        return 0 if counts is None else counts.used_at(now)

    def wait(self, name: bytes, now: float) -> float:
        """Seconds until the oldest use counts no longer."""
        counts = self._counts.get(name)
        return 0 if counts is None or not counts.used_at(now) else counts.entries[0] + _COUNTS_FOR - now

    def count(self, name: bytes, now: float) -> None:
        counts = self._counts.get(name)
        if counts is None:
            self._make_room(now)
            counts = self._counts[name] = _Counts()
        self._counts.move_to_end(name)
        counts.add(now)

    def _make_room(self, now: float) -> None:
        # Two at most for each that is new: the table shrinks as fast as it grew, and nobody waits for all of it.
        for _ in range(2):
            oldest = next(iter(self._counts.values()), None)
            if oldest is not None and (len(self._counts) >= MAX_NAMES or not oldest.used_at(now)):
                self._counts.popitem(last=False)


class _Counts:
    """The uses of one name."""

    __slots__ = ("entries", "used")

    def __init__(self) -> None:
        self.entries: list[int] = []  # a second, how many were in it, the next second, ...
        self.used = 0

    def used_at(self, now: float) -> int:
        """How many count at this time."""
        gone, entries, last = 0, self.entries, math.floor(now) - _COUNTS_FOR
        while gone < len(entries) and entries[gone] <= last:
            self.used -= entries[gone + 1]
            gone += 2
        if gone:
            del entries[:gone]
        return self.used

    def add(self, now: float) -> None:
        """One more, at this time."""
        second = math.floor(now)
        if self.entries and self.entries[-2] >= second:
            self.entries[-1] += 1
        else:
            self.entries += (second, 1)
        self.used += 1


def _named(limits: list[_Limit], access: OwnerAccess) -> list[tuple[_Limit, bytes]]:
    names = {"caller": access.actor, "user": access.user_id}
    # Of one size, however long a name is.
    return [
        (limit, blake2b(names[limit.name].encode("utf-8", "surrogatepass"), digest_size=16).digest())
        for limit in limits
    ]
