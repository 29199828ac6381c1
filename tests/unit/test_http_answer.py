"""Where an answer ends is found however it is cut into pieces; what isn't one is refused before it is large."""

from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.vault.http_answer import MAX_HEAD, AnswerReader, AnswerRefused

LIMIT = 10_000
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def fed(
    answer: bytes, cuts: list[int], *, limit: int = LIMIT, closes: bool = False
) -> tuple[AnswerReader, bytes] | None:
    """The reader and the body, after the answer has come in these pieces; None if it didn't end."""
    view = memoryview(bytearray(answer + b"\xff" * 16))
    reader = AnswerReader(limit)
    used = 0
    for end in [*sorted({cut % (len(answer) + 1) for cut in cuts} - {0}), len(answer)]:
        used = max(used, end)
        if reader.feed(view, used):
            assert reader.end is not None
            assert reader.end <= used
            return reader, bytes(view[slice(*reader.body)])
    if closes and reader.closed(used):
        return reader, bytes(view[slice(*reader.body)])
    return None


def chunked(pieces: list[bytes], *, extension: bytes = b"", trailer: bytes = b"") -> bytes:
    framed = b"".join(b"%x%s\r\n%s\r\n" % (len(piece), extension, piece) for piece in pieces if piece)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n" + trailer + b"\r\n"


CUTS = st.lists(st.integers(0, 5000), max_size=12)
BODY = st.binary(max_size=600)


@given(BODY, CUTS)
def test_a_body_of_a_told_length_is_found_however_it_comes(body: bytes, cuts: list[int]) -> None:
    found = fed(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body, cuts)
    assert found is not None
    assert found[1] == body
    assert found[0].head is not None
    assert (found[0].head.status, found[0].head.keeps) == (200, True)


@given(
    st.lists(BODY, max_size=6),
    CUTS,
    st.sampled_from([b"", b";name=value", b" ; a"]),
    st.sampled_from([b"", b"Expires: never\r\n", b"A: b\r\nC: d\r\n"]),
)
@example([b"\r\n\r\n", b"0\r\n\r\n"], [1, 2, 3], b"", b"")
def test_a_chunked_body_is_put_together_however_it_comes(
    pieces: list[bytes], cuts: list[int], extension: bytes, trailer: bytes
) -> None:
    answer = chunked(pieces, extension=extension, trailer=trailer)
    found = fed(answer, cuts)
    assert found is not None
    assert found[1] == b"".join(pieces)
    assert found[0].end == len(answer)


@given(st.lists(BODY, max_size=4), st.booleans(), st.integers(0, 3000), CUTS)
def test_an_answer_that_is_cut_off_never_counts_as_whole(
    pieces: list[bytes], is_chunked: bool, cut: int, cuts: list[int]
) -> None:
    body = b"".join(pieces)
    whole = chunked(pieces) if is_chunked else HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    assert fed(whole[: cut % len(whole)], cuts, closes=True) is None


@given(BODY, CUTS)
def test_without_a_length_the_end_of_the_connection_is_the_bodys(body: bytes, cuts: list[int]) -> None:
    found = fed(HEAD + b"\r\n" + body, cuts, closes=True)
    assert found is not None
    assert found[1] == body
    assert found[0].head is not None
    assert not found[0].head.keeps


@given(st.binary(max_size=300), CUTS)
@example(b"SSH-2.0-OpenSSH_9.6\r\n\r\n", [])
@example(b"HTTP/2 200\r\n\r\n", [])
@example(b"\r\n\r\n", [])
def test_bytes_that_are_no_http_are_refused_or_waited_for(garbage: bytes, cuts: list[int]) -> None:
    with suppress(AnswerRefused):
        assert fed(garbage, cuts) is None


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: 0x5\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Content-Length:\r\n",
        b"Content-Length: 99999999999999999999\r\n",
        b"Content-Length: 10001\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Content-Encoding: gzip\r\nContent-Length: 5\r\n",
        b"no colon\r\n",
        b"Name : value\r\n",
        b" folded: value\r\n",
        b"Name: a\x00b\r\n",
        b"Name: a\nContent-Length: 5\r\n",
        b"Name: a\rb\r\n",
    ],
)
def test_a_head_that_can_be_read_in_two_ways_is_refused(lines: bytes) -> None:
    with pytest.raises(AnswerRefused):
        fed(HEAD + lines + b"\r\n" + b"12345", [])


@pytest.mark.parametrize(
    "status",
    [b"HTTP/1.1 200OK", b"HTTP/1.1 20 OK", b"HTTP/1.1 999 OK", b"HTTP/2.0 200 OK", b"http/1.1 200", b"HTTP/1.1"],
)
def test_a_status_line_that_is_none_is_refused(status: bytes) -> None:
    with pytest.raises(AnswerRefused):
        fed(status + b"\r\nContent-Length: 0\r\n\r\n", [])


@pytest.mark.parametrize(
    "chunk",
    [
        b"5\r\n123456\r\n",
        b"5\r\n12345\n\r\n",
        b"2711\r\n",
        b"ffffffff\r\n",
        b"g" * 400,
        b"000000001\r\n" + b"x" * 400,
        b"-5\r\n" + b"x" * 400,
        b"0\r\n" + b"x" * 5000,
    ],
)
def test_a_chunk_that_is_none_is_refused(chunk: bytes) -> None:
    with pytest.raises(AnswerRefused):
        fed(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk, [])


def test_a_body_is_refused_where_it_grows_too_large() -> None:
    piece = b"x" * 1000
    with pytest.raises(AnswerRefused):
        fed(chunked([piece] * 11), [])
    with pytest.raises(AnswerRefused):
        fed(HEAD + b"\r\n" + piece * 11, [], closes=True)
    assert fed(chunked([piece] * 10), []) is not None


def test_a_head_that_does_not_end_is_refused() -> None:
    flood = HEAD + b"X: y\r\n" * (MAX_HEAD // 6)
    with pytest.raises(AnswerRefused):
        fed(flood, [])
    with pytest.raises(AnswerRefused):
        fed(b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_HEAD // 25 + 1), [])


def test_interim_answers_are_passed_over() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    found = fed(interim + HEAD + b"Content-Length: 2\r\n\r\n{}", list(range(200)))
    assert found is not None
    assert found[1] == b"{}"
    with pytest.raises(AnswerRefused):
        fed(b"HTTP/1.1 101 Switching Protocols\r\n\r\n", [])


@pytest.mark.parametrize(
    ("head", "keeps"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", True),
        (b"HTTP/1.1 204 No Content\r\n", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n", True),
        (b"HTTP/1.1 200 OK\r\ncontent-length:0\r\nCONNECTION: Close\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive, close\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n", False),
    ],
)
def test_a_connection_is_kept_where_the_server_keeps_it(head: bytes, keeps: bool) -> None:
    found = fed(head + b"\r\n", [])
    assert found is not None
    assert found[1] == b""
    assert found[0].head is not None
    assert found[0].head.keeps is keeps


def test_retry_after_is_passed_on_as_it_was_sent() -> None:
    found = fed(b"HTTP/1.1 429 Too Many\r\nRetry-After:  7 \r\nContent-Length: 0\r\n\r\n", [])
    assert found is not None
    assert found[0].head is not None
    assert found[0].head.retry_after == "7"
