"""Cursors: what goes in comes out, and nothing else is taken."""

import base64
import struct
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from fastapi import Request, Response
from hypothesis import given
from hypothesis import strategies as st

from service.api.pagination import credential_cursor, cut_page, encode_cursor, event_cursor
from service.errors import InvalidInput
from service.modules.records import Cursor

_times = st.datetimes(timezones=st.just(UTC))
_numbers = st.integers(0, 2**63 - 1)


@given(_times, st.uuids())
def test_a_credential_cursor_comes_back(at: datetime, number: UUID) -> None:
    cursor = Cursor(at, number)
    assert credential_cursor(encode_cursor(cursor)) == cursor


@given(_times, _numbers)
def test_an_event_cursor_comes_back(at: datetime, number: int) -> None:
    cursor = Cursor(at, number)
    assert event_cursor(encode_cursor(cursor)) == cursor


@given(_times, _numbers, st.uuids())
def test_one_lists_cursor_is_not_anothers(at: datetime, number: int, credential_id: UUID) -> None:
    with pytest.raises(InvalidInput):
        credential_cursor(encode_cursor(Cursor(at, number)))
    with pytest.raises(InvalidInput):
        event_cursor(encode_cursor(Cursor(at, credential_id)))


@given(
    st.text()
    | st.text(alphabet=st.sampled_from("ABCDEabcde0189-_="), min_size=20, max_size=36)
    | st.binary(min_size=25, max_size=25).map(lambda raw: base64.urlsafe_b64encode(b"c" + raw[1:]).decode().rstrip("="))
    | st.binary(min_size=17, max_size=17).map(lambda raw: base64.urlsafe_b64encode(b"e" + raw[1:]).decode().rstrip("="))
)
def test_any_text_is_a_cursor_in_its_one_spelling_or_refused(text: str) -> None:
    for parse in (credential_cursor, event_cursor):
        try:
            cursor = parse(text)
        except InvalidInput:
            continue
        assert cursor is not None
        assert encode_cursor(cursor) == text


@pytest.mark.parametrize("spelling", ["{}=", "{}A", " {}", "{}\n", "+{}"])
def test_a_cursor_has_one_spelling(spelling: str) -> None:
    good = encode_cursor(Cursor(datetime(2026, 1, 1, tzinfo=UTC), UUID(int=0)))
    assert good.endswith("A")
    for other in (spelling.format(good), good[:-1] + "B"):  # the B's last bits are ones that the decoder ignores
        with pytest.raises(InvalidInput):
            credential_cursor(other)


@pytest.mark.parametrize("micros", [-(2**63), 2**63 - 1])
def test_a_time_beyond_the_calendar_is_refused(micros: int) -> None:
    text = base64.urlsafe_b64encode(struct.pack(">cqq", b"e", micros, 1)).decode().rstrip("=")
    with pytest.raises(InvalidInput):
        event_cursor(text)


def test_no_cursor_is_the_first_page() -> None:
    assert credential_cursor(None) is None
    assert event_cursor(None) is None


def _request(query: str) -> Request:
    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "path": "/v1/events",
        "query_string": query.encode(),
        "headers": [],
        "server": ("service.test", 80),
        "scheme": "http",
    }
    return Request(scope)


def _cursor(number: int) -> Cursor:
    return Cursor(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number), number)


def test_one_more_than_the_limit_makes_a_link_that_keeps_the_filters() -> None:
    response = Response()
    request = _request("actor=user%3Aal%3E%3Cice&limit=2&cursor=old")
    assert cut_page(request, response, [1, 2, 3], 2, _cursor) == [1, 2]
    link = response.headers["link"]
    assert link == f'</v1/events?actor=user%3Aal%3E%3Cice&limit=2&cursor={encode_cursor(_cursor(2))}>; rel="next"'


@pytest.mark.parametrize("found", [[], [1], [1, 2]])
def test_the_last_page_has_no_link(found: list[int]) -> None:
    response = Response()
    assert cut_page(_request(""), response, found, 2, _cursor) == found
    assert "link" not in response.headers
