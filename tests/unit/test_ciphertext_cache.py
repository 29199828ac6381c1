"""What is kept of KV, for how long, and how it is fetched. The store behind it is a function that counts."""

import asyncio
from typing import cast

import pytest

from service.errors import Busy, CiphertextGone, VaultUnavailable
from service.modules.ciphertext_cache import CacheLimits, CiphertextCache
from service.modules.ports import CiphertextStore
from service.modules.records import Seal


class CountingStore:
    """Answers every read, once it is let go."""

    def __init__(self) -> None:
        self.reads: list[tuple[str, int]] = []
        self.at_once = self.most_at_once = 0
        self.error: Exception | None = None
        self.go = asyncio.Event()
        self.go.set()

    async def read(self, path: str, version: int) -> Seal:
        self.reads.append((path, version))
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        await self.go.wait()
        await asyncio.sleep(0.001)
        self.at_once -= 1
        if self.error is not None:
            raise self.error
        return Seal(ciphertext=f"vault:v1:{path}{version}", transit_key_version=1)


def cache_of(
    store: CountingStore, *, size: int = 100_000, seconds: float = 300, at_once: int = 4, waiting: int = 100
) -> CiphertextCache:
    limits = CacheLimits(size=size, seconds=seconds, reads_at_once=at_once, waiting=waiting)
    return CiphertextCache(cast(CiphertextStore, store), limits)


async def test_a_ciphertext_is_read_once_and_another_version_is_another() -> None:
    store = CountingStore()
    cache = cache_of(store)
    for _ in range(3):
        assert (await cache.read("p", 1, user_id="u")).ciphertext == "vault:v1:p1"
    assert (await cache.read("p", 2, user_id="u")).ciphertext == "vault:v1:p2"
    assert store.reads == [("p", 1), ("p", 2)]


async def test_many_who_want_the_same_at_once_cause_one_read() -> None:
    store = CountingStore()
    cache = cache_of(store)
    found = await asyncio.gather(*(cache.read("p", 1, user_id=f"u{n}") for n in range(50)))
    assert len({seal.ciphertext for seal in found}) == 1
    assert store.reads == [("p", 1)]


async def test_a_cold_start_reads_so_many_at_once_and_no_more() -> None:
    store = CountingStore()
    cache = cache_of(store, at_once=4)
    await asyncio.gather(*(cache.read(f"p{n}", 1, user_id="u") for n in range(40)))
    assert (len(store.reads), store.most_at_once) == (40, 4)


async def test_one_users_cold_flood_does_not_hold_up_anothers_read() -> None:
    store = CountingStore()
    store.go.clear()
    cache = cache_of(store, at_once=2)
    flood = [asyncio.create_task(cache.read(f"f{n}", 1, user_id="flood")) for n in range(20)]
    await asyncio.sleep(0.01)
    single = asyncio.create_task(cache.read("mine", 1, user_id="other"))
    await asyncio.sleep(0.01)
    store.go.set()
    await single
    assert ("mine", 1) in store.reads[:6]
    await asyncio.gather(*flood)


async def test_beyond_the_bound_reads_are_refused_as_busy() -> None:
    store = CountingStore()
    store.go.clear()
    cache = cache_of(store, at_once=1, waiting=2)
    reads = [asyncio.create_task(cache.read(f"p{n}", 1, user_id=f"u{n}")) for n in range(6)]
    await asyncio.sleep(0.01)
    store.go.set()
    results = await asyncio.gather(*reads, return_exceptions=True)
    assert any(isinstance(result, Busy) for result in results)
    assert all(isinstance(result, Seal | Busy) for result in results)


async def test_the_least_recently_used_goes_when_the_bytes_are_used_up() -> None:
    store = CountingStore()
    cache = cache_of(store, size=2000)
    for path in ("a", "b", "c"):
        await cache.read(path, 1, user_id="u")
    await cache.read("a", 1, user_id="u")
    await cache.read("d", 1, user_id="u")
    assert cache.held("a", 1) is not None
    assert cache.held("d", 1) is not None
    assert cache.held("b", 1) is None
    assert cache.size <= 2000


async def test_the_size_is_what_is_held_and_nothing_once_all_is_forgotten() -> None:
    cache = cache_of(CountingStore())
    await asyncio.gather(*(cache.read(f"p{n}", 1, user_id="u") for n in range(10)))
    assert cache.size > 6000
    for n in range(10):
        cache.forget(f"p{n}", 1)
        cache.forget(f"p{n}", 1)
    assert cache.size == 0


async def test_what_is_too_old_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("service.modules.ciphertext_cache.monotonic", lambda: now)
    store = CountingStore()
    cache = cache_of(store, seconds=60)
    await cache.read("p", 1, user_id="u")
    now += 59
    await cache.read("p", 1, user_id="u")
    assert len(store.reads) == 1
    now += 1
    assert cache.held("p", 1) is None
    await cache.read("p", 1, user_id="u")
    assert len(store.reads) == 2


@pytest.mark.parametrize("limits", [{"size": 0}, {"seconds": 0}])
async def test_nothing_is_kept_where_the_settings_say_so(limits: dict[str, int]) -> None:
    store = CountingStore()
    cache = cache_of(store, **limits)
    await cache.read("p", 1, user_id="u")
    await cache.read("p", 1, user_id="u")
    assert (len(store.reads), cache.size) == (2, 0)


async def test_a_failed_read_is_each_callers_own_error_and_is_not_kept() -> None:
    store = CountingStore()
    store.error = VaultUnavailable(retry_after=3)
    cache = cache_of(store)
    errors = await asyncio.gather(*(cache.read("p", 1, user_id="u") for _ in range(3)), return_exceptions=True)
    assert [getattr(error, "retry_after", None) for error in errors] == [3, 3, 3]
    assert len({id(error) for error in errors}) == 3
    store.error = None
    await cache.read("p", 1, user_id="u")
    store.error = CiphertextGone()
    with pytest.raises(CiphertextGone):
        await cache.read("q", 1, user_id="u")


async def test_a_caller_that_gives_up_leaves_the_read_to_the_others() -> None:
    store = CountingStore()
    store.go.clear()
    cache = cache_of(store)
    gone, stays = (asyncio.create_task(cache.read("p", 1, user_id=user)) for user in ("gone", "stays"))
    await asyncio.sleep(0.01)
    gone.cancel()
    await asyncio.sleep(0.01)
    store.go.set()
    assert (await stays).ciphertext == "vault:v1:p1"
    assert store.reads == [("p", 1)]
