"""The chain's hashes: no two lists of events, and no two seals, have the same one."""

import hashlib
from dataclasses import fields, replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service.modules.event_chain import (
    LAST_XID,
    NO_SEAL,
    EventDigest,
    EventSeal,
    SealedEvent,
    SealMark,
    SealSkew,
    contiguous,
    microseconds,
    seal_sha256,
    seal_skew,
    segments,
    time_of,
)

INSTALLATION = UUID("11111111-2222-3333-4444-555555555555")
BIGINT = st.integers(-(2**63), 2**63 - 1)
XID8 = st.integers(0, LAST_XID)
SHA256 = st.binary(min_size=32, max_size=32)
SEALS = st.builds(
    EventSeal,
    number=BIGINT,
    sealed_at=BIGINT,
    cluster_id=BIGINT,
    after_id=BIGINT,
    upto_id=BIGINT,
    from_xid=XID8,
    upto_xid=XID8,
    events=BIGINT,
    events_sha256=SHA256,
)
NOT_HASHED = {"sha256", "key_version", "signature"}
HASHED = sorted({each.name for each in fields(EventSeal)} - NOT_HASHED)


def digest_of(encoded: list[bytes]) -> bytes:
    digest = EventDigest()
    for number, each in enumerate(encoded):
        digest.add(SealedEvent(1, number, each))
    return digest.digest()


def seal(**given: int) -> EventSeal:
    usual = {"number": 1, "after_id": 0, "upto_id": 9, "from_xid": 0, "upto_xid": 100}
    return EventSeal(**{**usual, **given}, sealed_at=0, cluster_id=1, events=1, events_sha256=bytes(32))  # type: ignore[arg-type]  # ints


# --- events -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=40), max_size=6), st.lists(st.binary(max_size=40), max_size=6))
def test_different_events_have_different_hashes_however_their_bytes_are_divided(
    one: list[bytes], other: list[bytes]
) -> None:
    assume(one != other)
    assert digest_of(one) != digest_of(other)


def test_bytes_moved_from_one_event_to_the_next_change_the_hash() -> None:
    ways = ([b"ab", b"c"], [b"a", b"bc"], [b"abc"], [b"abc", b""], [b"c", b"ab"])
    assert len({digest_of(each) for each in ways}) == len(ways)


def test_the_hash_is_what_the_documentation_says() -> None:
    told = hashlib.sha256(b"vault-credentials events 1\n" + b"\0\0\0\x02ab" + b"\0\0\0\x01c").digest()
    assert digest_of([b"ab", b"c"]) == told


@given(st.lists(st.integers(1, 100), min_size=1))
def test_a_digest_knows_how_many_events_it_has_and_the_greatest_number(ids: list[int]) -> None:
    digest = EventDigest()
    for each in ids:
        digest.add(SealedEvent(1, each, b"x"))
    assert (digest.count, digest.greatest_id) == (len(ids), max(ids))


# --- seals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", HASHED)
@given(one=SEALS, other=SEALS)
def test_every_field_of_a_seal_is_in_its_hash(field: str, one: EventSeal, other: EventSeal) -> None:
    changed = replace(one, **{field: getattr(other, field)})
    assume(changed != one)
    assert seal_sha256(changed, INSTALLATION, NO_SEAL) != seal_sha256(one, INSTALLATION, NO_SEAL)


@given(SEALS, SHA256, SHA256)
def test_the_seal_before_and_the_installation_are_in_a_seals_hash(one: EventSeal, before: bytes, other: bytes) -> None:
    assume(before != other)
    assert seal_sha256(one, INSTALLATION, before) != seal_sha256(one, INSTALLATION, other)
    assert seal_sha256(one, INSTALLATION, before) != seal_sha256(one, uuid4(), before)


@given(SEALS, st.binary(max_size=64), st.binary(max_size=64))
def test_hashes_of_another_length_that_somebody_wrote_do_not_run_into_each_other(
    one: EventSeal, first: bytes, second: bytes
) -> None:
    assume(first != second)
    one_way = seal_sha256(replace(one, events_sha256=first), INSTALLATION, second)
    assert one_way != seal_sha256(replace(one, events_sha256=second), INSTALLATION, first)


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_time_is_kept_to_the_microsecond(at: datetime) -> None:
    assert time_of(microseconds(at)) == at


@pytest.mark.parametrize("infinity", [2**63 - 1, -(2**63)])
def test_a_time_that_no_clock_shows_is_none(infinity: int) -> None:
    assert time_of(infinity) is None


# --- one after the other ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "follows"),
    [
        (None, seal(), True),
        (None, seal(from_xid=1), False),
        (None, seal(after_id=1), False),
        (seal(), seal(from_xid=100, upto_xid=200), True),
        (seal(), seal(from_xid=101, upto_xid=200), False),
        (seal(), seal(from_xid=99, upto_xid=200), False),
        (seal(), seal(after_id=9, from_xid=0), True),
        (seal(), seal(after_id=9, from_xid=100), False),
        (seal(), seal(after_id=8, from_xid=0), False),
        (seal(), seal(after_id=10, from_xid=0), False),
        (seal(upto_xid=LAST_XID), seal(from_xid=LAST_XID), False),
        (seal(upto_xid=LAST_XID), seal(after_id=9), True),
    ],
)
def test_a_seal_begins_where_the_one_before_ends(before: EventSeal | None, after: EventSeal, follows: bool) -> None:
    assert contiguous(before, after) is follows


def test_a_segment_ends_where_the_next_one_begins() -> None:
    assert segments([7, 0, 3]) == {0: 3, 3: 7, 7: None}
    assert segments([]) == {}


# --- the anchor -------------------------------------------------------------------------------------------------------


class Marks:
    """A chain of so many seals."""

    def __init__(self, *marks: SealMark) -> None:
        self._marks = {mark.number: mark for mark in marks}

    async def newest_seal(self) -> SealMark | None:
        return self._marks[max(self._marks)] if self._marks else None

    async def seal_mark(self, number: int) -> SealMark | None:
        return self._marks.get(number)


ONE, TWO, OTHER = SealMark(1, b"1" * 32), SealMark(2, b"2" * 32), SealMark(1, b"x" * 32)


@pytest.mark.parametrize(
    ("chain", "anchored", "skew"),
    [
        ((), None, None),
        ((ONE, TWO), None, None),
        ((ONE, TWO), TWO, None),
        ((ONE, TWO), ONE, None),
        ((), ONE, SealSkew.CUT),
        ((ONE,), TWO, SealSkew.CUT),
        ((OTHER,), ONE, SealSkew.FORKED),
        ((OTHER, TWO), ONE, SealSkew.FORKED),
        ((TWO,), ONE, SealSkew.FORKED),
    ],
)
async def test_a_chain_without_the_anchored_seal_is_told_from_one_that_went_on(
    chain: tuple[SealMark, ...], anchored: SealMark | None, skew: SealSkew | None
) -> None:
    assert await seal_skew(Marks(*chain), anchored) is skew


def test_a_mark_is_written_as_the_command_reads_it() -> None:
    assert str(SealMark(12, b"\xab" * 32)) == "12:" + "ab" * 32
