"""What waits while a batch is under way becomes the next batch; bounded, fair, and nobody's trouble is another's."""

import asyncio
import sys
from collections.abc import Sequence
from contextvars import ContextVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Busy, CredentialsError, CredentialUnreadable, VaultSealed
from service.modules.coalescer import BatchLimits, Coalescer, FairQueue
from service.observability import RequestLog, current_request_id


class Recorder:
    """A `run` that notes its batches, and holds each until it is let go."""

    def __init__(self, *, held: bool = False) -> None:
        self.batches: list[list[str]] = []
        self.discarded: list[str] = []
        self.go = asyncio.Event()
        if not held:
            self.go.set()

    async def __call__(self, items: list[str]) -> Sequence[str | Exception]:
        self.batches.append(items)
        await self.go.wait()
        return [CredentialUnreadable() if item == "bad" else item.upper() for item in items]

    def coalescer(self, *, items: int = 100, under_way: int = 1, waiting: int = 1000) -> Coalescer[str, str]:
        limits = BatchLimits(items=items, under_way=under_way, waiting=waiting, size=100)
        return Coalescer(self, limits, discard=self.discarded.append)


def calls(coalescer: Coalescer[str, str], *asked: str) -> list["asyncio.Task[str]"]:
    """A task for each `group:item`."""
    return [asyncio.create_task(coalescer.call(each.split(":")[1], group=each.split(":")[0])) for each in asked]


async def turns(count: int = 5) -> None:
    """Lets the event loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_calls_of_one_turn_of_the_loop_are_one_batch_and_each_gets_its_own_result() -> None:
    run = Recorder()
    coalescer = run.coalescer()
    assert await asyncio.gather(*calls(coalescer, "u:a", "v:b", "u:c")) == ["A", "B", "C"]
    assert sorted(run.batches[0]) == ["a", "b", "c"]
    assert len(run.batches) == 1


async def test_a_lone_call_starts_in_the_next_turn_of_the_loop() -> None:
    run = Recorder(held=True)
    (call,) = calls(run.coalescer(), "u:a")
    await turns(4)
    assert run.batches == [["a"]]
    run.go.set()
    assert await call == "A"


async def test_what_waits_while_a_batch_is_under_way_becomes_the_next_batch() -> None:
    run = Recorder(held=True)
    coalescer = run.coalescer()
    first = calls(coalescer, "u:a")
    await turns()
    second = calls(coalescer, "u:b", "v:c", "w:d")
    await turns()
    assert (run.batches, coalescer.under_way, coalescer.waiting) == ([["a"]], 1, 3)
    run.go.set()
    assert await asyncio.gather(*first, *second) == ["A", "B", "C", "D"]
    assert run.batches == [["a"], ["b", "c", "d"]]


async def test_no_more_batches_are_under_way_than_allowed_and_none_is_larger() -> None:
    run = Recorder(held=True)
    coalescer = run.coalescer(items=3, under_way=2)
    asked = calls(coalescer, *(f"u{n}:x{n}" for n in range(10)))
    await turns()
    assert [len(batch) for batch in run.batches] == [3, 3]
    run.go.set()
    await asyncio.gather(*asked)
    assert [len(batch) for batch in run.batches] == [3, 3, 3, 1]


async def test_a_batch_is_bounded_by_size_and_what_is_larger_alone_still_goes() -> None:
    run = Recorder()
    coalescer = run.coalescer()
    sizes = {"a": 60, "b": 40, "c": 1, "d": 500, "e": 10}
    await asyncio.gather(*(coalescer.call(item, group=item, size=size) for item, size in sizes.items()))
    assert run.batches == [["a", "b"], ["c"], ["d"], ["e"]]


async def test_a_bad_item_fails_alone() -> None:
    good, bad = calls(Recorder().coalescer(), "u:a", "v:bad")
    assert await good == "A"
    with pytest.raises(CredentialUnreadable):
        await bad


async def test_a_failed_batch_gives_every_caller_an_error_of_its_own() -> None:
    async def run(_items: list[str]) -> list[str]:
        raise VaultSealed(retry_after=7)

    coalescer = Coalescer[str, str](run, BatchLimits(items=10, under_way=1, waiting=10))
    errors = await asyncio.gather(*calls(coalescer, "u:a", "v:b", "w:c"), return_exceptions=True)
    assert [(type(error), getattr(error, "retry_after", None), str(error)) for error in errors] == [
        (VaultSealed, 7, "Vault is sealed.")
    ] * 3
    assert len({id(error) for error in errors}) == 3


async def test_an_unexpected_error_is_told_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    async def run(items: list[str]) -> list[str]:
        raise RuntimeError(f"with {items[0]}")

    coalescer = Coalescer[str, str](run, BatchLimits(items=10, under_way=1, waiting=10))
    (call,) = calls(coalescer, "u:canary-of-this-test")
    with pytest.raises(CredentialsError, match=r"Something went wrong\.") as raised:
        await call
    assert raised.value.__cause__ is None
    assert "canary-of-this-test" not in caplog.text
    assert "a batch failed" in caplog.text


async def test_a_result_short_of_the_batch_fails_it_rather_than_hang() -> None:
    async def run(items: list[str]) -> list[str]:
        return items[1:]

    coalescer = Coalescer[str, str](run, BatchLimits(items=10, under_way=1, waiting=10))
    results = await asyncio.wait_for(asyncio.gather(*calls(coalescer, "u:a", "v:b"), return_exceptions=True), 5)
    assert any(isinstance(result, CredentialsError) for result in results)


async def test_one_users_flood_does_not_hold_up_anothers_single_call() -> None:
    run = Recorder(held=True)
    coalescer = run.coalescer(items=4)
    flood = calls(coalescer, *(f"flood:f{n}" for n in range(50)))
    await turns()
    single = calls(coalescer, "other:x")
    await turns()
    run.go.set()
    await asyncio.gather(*single)
    assert "x" in run.batches[1], "it was not in the next batch"
    await asyncio.gather(*flood)


async def test_turns_go_round_between_groups_that_all_have_many() -> None:
    run = Recorder(held=True)
    coalescer = run.coalescer(items=4)
    blocker = calls(coalescer, "z:first")
    await turns()
    asked = calls(coalescer, *(f"{user}:{user}{n}" for user in "ab" for n in range(6)))
    await turns()
    run.go.set()
    await asyncio.gather(*blocker, *asked)
    assert run.batches[1:] == [["a0", "b0", "a1", "b1"], ["a2", "b2", "a3", "b3"], ["a4", "b4", "a5", "b5"]]


async def test_beyond_the_bound_the_flooding_group_is_told_busy_and_not_the_newcomer() -> None:
    run = Recorder(held=True)
    coalescer = run.coalescer(waiting=5)
    calls(coalescer, "z:first")
    await turns()
    flood = calls(coalescer, *(f"flood:f{n}" for n in range(5)))
    await turns()
    newcomer = calls(coalescer, "other:x")
    more = calls(coalescer, "flood:more")
    await turns()
    assert isinstance(flood[-1].exception(), Busy), "the newest of the flood makes room"
    assert isinstance(more[0].exception(), Busy)
    assert not newcomer[0].done()
    assert coalescer.waiting == 5
    run.go.set()
    assert await newcomer[0] == "X"
    assert await asyncio.gather(*flood[:-1]) == ["F0", "F1", "F2", "F3"]


async def test_where_nobody_has_more_than_others_the_newcomer_is_told_busy() -> None:
    run = Recorder(held=True)
    coalescer = run.coalescer(waiting=3)
    calls(coalescer, "z:first")
    await turns()
    waiting = calls(coalescer, "a:a", "b:b", "c:c")
    (late,) = calls(coalescer, "d:d")
    await turns()
    assert isinstance(late.exception(), Busy)
    run.go.set()
    assert await asyncio.gather(*waiting) == ["A", "B", "C"]


async def test_a_caller_that_gives_up_while_waiting_takes_its_place_along_and_harms_no_other() -> None:
    run = Recorder(held=True)
    coalescer = run.coalescer(waiting=2)
    first = calls(coalescer, "z:first")
    await turns()
    gone, stays = calls(coalescer, "u:gone", "u:stays")
    await turns()
    gone.cancel()
    await turns()
    assert coalescer.waiting == 1
    (late,) = calls(coalescer, "v:late")
    run.go.set()
    assert await asyncio.gather(*first, stays, late) == ["FIRST", "STAYS", "LATE"]
    assert run.batches[1] == ["stays", "late"]
    assert run.discarded == []


async def test_the_result_of_a_caller_that_gave_up_under_way_is_discarded() -> None:
    run = Recorder(held=True)
    coalescer = run.coalescer()
    gone, stays = calls(coalescer, "u:gone", "v:stays")
    await turns()
    gone.cancel()
    await turns()
    run.go.set()
    assert await stays == "STAYS"
    assert run.discarded == ["GONE"]


async def test_the_result_of_a_caller_cancelled_just_as_it_comes_is_discarded() -> None:
    run = Recorder()
    discarded: list[str] = []
    tasks: list[asyncio.Task[str]] = []

    async def work(items: list[str]) -> Sequence[str | Exception]:
        # Behind the caller's own waking: its future is set, and it has not run yet.
        asyncio.get_running_loop().call_soon(tasks[0].cancel)
        return await run(items)

    coalescer = Coalescer[str, str](work, BatchLimits(items=10, under_way=1, waiting=10), discard=discarded.append)
    tasks += calls(coalescer, "u:a")
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    assert discarded == ["A"]


async def test_closing_tells_everybody_and_ends_what_is_under_way() -> None:
    run = Recorder(held=True)
    coalescer = run.coalescer()
    under_way = calls(coalescer, "u:a")
    await turns()
    waiting = calls(coalescer, "u:b")
    await turns()
    await coalescer.aclose()
    for call in (*under_way, *waiting, *calls(coalescer, "u:c")):
        with pytest.raises(Busy, match="stopping"):
            await call
    assert (coalescer.waiting, coalescer.under_way) == (0, 0)


async def test_a_batch_is_of_no_ones_request() -> None:
    seen: list[str | None] = []

    async def run(items: list[str]) -> list[str]:
        seen.append(current_request_id())
        return items

    coalescer = Coalescer[str, str](run, BatchLimits(items=10, under_way=1, waiting=10))

    async def application(_scope: object, _receive: object, _send: object) -> None:
        assert current_request_id() is not None
        await coalescer.call("a", group="u")

    scope = {"type": "http", "method": "GET", "headers": []}
    await RequestLog(application)(scope, None, None)  # type: ignore[arg-type]  # neither is called
    assert seen == [None]


async def test_what_one_batch_notes_in_its_context_the_next_does_not_see() -> None:
    seen: list[str] = []
    noted: ContextVar[str] = ContextVar("noted", default="nothing")

    async def run(items: list[str]) -> list[str]:
        seen.append(noted.get())
        noted.set(items[0])
        return items

    coalescer = Coalescer[str, str](run, BatchLimits(items=1, under_way=1, waiting=10))
    await asyncio.gather(*calls(coalescer, "u:a", "v:b", "w:c"))
    assert seen == ["nothing"] * 3


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.12 brought the eager task factory")
def test_a_program_whose_tasks_begin_at_once_gets_its_results() -> None:
    async def main() -> list[str]:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]  # from 3.12 on
        coalescer = Recorder().coalescer(items=2, under_way=3)
        return await asyncio.wait_for(asyncio.gather(*calls(coalescer, *(f"u{n}:x{n}" for n in range(8)))), 5)

    assert asyncio.run(main()) == [f"X{n}" for n in range(8)]


async def test_thousands_that_give_up_at_once_are_let_go_one_by_one() -> None:
    run = Recorder(held=True)
    coalescer = run.coalescer(waiting=5000)
    calls(coalescer, "z:first")
    await turns()
    asked = calls(coalescer, *(f"u{n % 2}:{n}" for n in range(2000)), *(f"w{n}:{n}" for n in range(2000)))
    await turns()
    for call in asked[1:]:
        call.cancel()
    await turns()
    assert coalescer.waiting == 1
    run.go.set()
    assert await asked[0] == "0"
    assert run.batches == [["first"], ["0"]]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 150), st.booleans()), min_size=1, max_size=40),
    st.integers(1, 7),
    st.integers(1, 3),
)
def test_whatever_is_asked_each_gets_its_own_and_no_bound_is_passed(
    asked: list[tuple[str, int, bool]], items: int, under_way: int
) -> None:
    seen: list[list[tuple[int, int]]] = []
    at_once = 0

    async def run(batch: list[tuple[int, int]]) -> list[int]:
        nonlocal at_once
        at_once += 1
        assert at_once <= under_way
        seen.append(batch)
        await asyncio.sleep(0)
        at_once -= 1
        return [number for number, _size in batch]

    async def main() -> None:
        coalescer = Coalescer[tuple[int, int], int](
            run, BatchLimits(items=items, under_way=under_way, waiting=100, size=200)
        )
        tasks = []
        for number, (group, size, cancelled) in enumerate(asked):
            task = asyncio.create_task(coalescer.call((number, size), group=group, size=size))
            tasks.append(task)
            if cancelled:
                await asyncio.sleep(0)
                task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for number, (result, (_group, _size, cancelled)) in enumerate(zip(results, asked, strict=True)):
            assert result == number or (cancelled and isinstance(result, asyncio.CancelledError))
        assert coalescer.waiting == 0

    asyncio.run(main())
    for batch in seen:
        assert len(batch) <= items
        assert len(batch) == 1 or sum(size for _number, size in batch) <= 200
    numbers = [number for batch in seen for number, _size in batch]
    assert len(numbers) == len(set(numbers)), "something was done twice"


async def test_a_fair_queue_runs_so_many_at_once_and_takes_turns() -> None:
    queue = FairQueue(at_once=2, waiting=10, name="test")
    began: list[str] = []
    go = asyncio.Event()

    async def work(name: str) -> str:
        began.append(name)
        await go.wait()
        return name

    def asked(group: str, name: str) -> "asyncio.Task[str]":
        return asyncio.create_task(queue.run(lambda: work(name), group=group))

    tasks = [asked("a", "a0"), asked("a", "a1"), asked("a", "a2"), asked("a", "a3"), asked("b", "b0")]
    await turns()
    assert began == ["a0", "b0"]
    go.set()
    assert await asyncio.gather(*tasks) == ["a0", "a1", "a2", "a3", "b0"]
