"""Bytes that were good once: cut, doubled, spliced, flipped, and put together anew."""

from itertools import pairwise

from hypothesis import strategies as st

BREAKING = [
    *(bytes([byte]) for byte in b'"\\{}[],:=;0 9-\r\n\t\0\x7f\x80\xff'),
    b"\r\n",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"ffffffff\r\n",
    b"\\u0022",
    b"\\u0000",
    b"null",
    b"1e999",
    b"9" * 30,
    b"[" * 40,
    b'{"a":' * 40,
    b"Content-Length: 7\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 103 Early\r\n\r\n",
    b'"plaintext":"QUJD"',
    b'"data":{',
    b'"batch_results":[',
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
]
"""What parsers stumble over."""


@st.composite
def mutated(draw: st.DrawFn, good: st.SearchStrategy[bytes], most: int = 4) -> bytes:
    """Something good with at most `most` changes, none included."""
    changed = draw(good)
    for _ in range(draw(st.integers(0, most))):
        start = draw(st.integers(0, len(changed)))
        end = min(len(changed), start + draw(st.integers(0, 40)))
        match draw(st.sampled_from(["put", "set", "delete", "double", "cut", "move", "any"])):
            case "put":
                changed = changed[:start] + draw(st.sampled_from(BREAKING)) + changed[start:]
            case "set":
                changed = changed[:start] + draw(st.sampled_from(BREAKING)) + changed[start + 1 :]
            case "delete":
                changed = changed[:start] + changed[end:]
            case "double":
                changed = changed[:end] + changed[start:]
            case "cut":
                changed = changed[:start]
            case "move":
                part, rest = changed[start:end], changed[:start] + changed[end:]
                at = draw(st.integers(0, len(rest)))
                changed = rest[:at] + part + rest[at:]
            case _:
                changed = changed[:start] + draw(st.binary(min_size=1, max_size=4)) + changed[end:]
    return changed


def pieces(content: bytes, cuts: list[int]) -> list[bytes]:
    """The content in pieces; one cut of -1: byte by byte."""
    places = range(1, len(content)) if cuts == [-1] else sorted({cut % (len(content) + 1) for cut in cuts})
    ends = [0, *places, len(content)]
    return [content[start:end] for start, end in pairwise(ends) if start < end]


CUTS = st.just([-1]) | st.lists(st.integers(0, 5000), max_size=8)
"""How bytes come: at once, in some pieces, one by one."""
