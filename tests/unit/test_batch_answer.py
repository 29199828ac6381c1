"""A batch's answer is read by spans: as JSON says, or not at all, whatever comes."""

import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.errors import CiphertextRejected, KeyVersionRetired
from service.memory.plaintext import Plaintext
from service.memory.secret_pages import SecretBuffer
from service.vault import batch_answer
from service.vault.batch_answer import find_items, open_items
from service.vault.json_spans import MAX_DEPTH, NotVaults

TOO_OLD = "ciphertext or signature version is disallowed by policy (too old)"


def usual(items: list[dict[str, Any]]) -> bytes:
    """An answer in Vault's own layout, to the letter."""
    results = [{**item, "reference": ""} for item in items]
    answer = {
        "request_id": "2590c1ea-6516-199c-2b02-d673b74d555c",
        "lease_id": "",
        "renewable": False,
        "lease_duration": 0,
        "data": {"batch_results": results},
        "wrap_info": None,
        "warnings": None,
        "auth": None,
        "mount_type": "transit",
    }
    return json.dumps(answer, separators=(",", ":")).encode() + b"\n"


def encoded(plaintext: bytes) -> dict[str, str]:
    return {"plaintext": base64.b64encode(plaintext).decode()}


def read(document: bytes) -> list[bytes | type[Exception]] | None:
    """What is found in a document that lies in a buffer, between other bytes."""
    with SecretBuffer(len(document) + 10) as buffer:
        buffer.view[:] = b"]" * 5 + document + b"}" * 5
        body = buffer.view[5:-5]
        found = find_items(body)
        if found.items is None:
            return None
        results = open_items(body, buffer.address + 5, found.items)
        assert bytes(buffer.view[:5]) == b"]" * 5
        assert bytes(buffer.view[-5:]) == b"}" * 5
    read: list[bytes | type[Exception]] = []
    for result in results:
        if isinstance(result, Plaintext):
            read.append(bytes(result.reveal()))
            result.wipe()
        else:
            read.append(type(result))
    return read


def expected(document: bytes) -> list[bytes | type[Exception]] | None:
    """What `json` finds there. (As Latin-1: whether names and errors are UTF-8 doesn't matter here.)"""
    answer = json.loads(document.decode("latin-1"), parse_constant=lambda _: pytest.fail("not JSON"), parse_int=str)
    data = answer.get("data")
    results = data.get("batch_results") if isinstance(data, dict) else None
    if not isinstance(results, list):
        return None
    return [_expected_of(result) for result in results]


def _expected_of(result: dict[str, Any]) -> bytes | type[Exception]:
    if not result.get("plaintext") or result.get("error") not in (None, ""):
        return KeyVersionRetired if "too old" in json.dumps(result.get("error")) else CiphertextRejected
    return base64.b64decode(result["plaintext"], validate=True)


ITEMS = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=80).map(encoded),
        st.sampled_from(["cipher: message authentication failed", TOO_OLD]).map(
            lambda e: {"plaintext": "", "error": e}
        ),
    ),
    max_size=8,
)


@given(ITEMS)
@example([{"plaintext": "", "error": TOO_OLD}])
def test_vaults_own_layout_is_read_as_json_is(items: list[dict[str, Any]]) -> None:
    document = usual(items)
    assert read(document) == expected(document)
    if items:  # and by the pattern that is fast
        assert batch_answer._usual_items(memoryview(document)) is not None


@given(ITEMS)
def test_the_fast_way_and_the_strict_way_find_the_same(items: list[dict[str, Any]]) -> None:
    document = memoryview(usual(items))
    fast, strict = batch_answer._usual_items(document), batch_answer._any_answer(document).items
    assert strict is not None
    if fast is not None:
        # No error and an empty one are the same; so the spans may differ there, and what they hold may not.
        assert [plaintext for plaintext, _ in fast] == [plaintext for plaintext, _ in strict]
        assert [bytes(document[slice(*error)]) if error[0] > 0 else b"" for _, error in fast] == [
            bytes(document[slice(*error)]) if error[0] > 0 else b"" for _, error in strict
        ]


TEXT = st.text(max_size=8) | st.sampled_from(["plaintext", "error", "too old", "AAAA", "QUJD", '"', "\\", "\\u0041"])
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats(allow_nan=False, allow_infinity=False)
)
JSON = st.recursive(
    SCALARS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
ANY_ITEM = st.fixed_dictionaries(
    {},
    optional={
        "plaintext": st.binary(max_size=12).map(lambda b: encoded(b)["plaintext"]) | JSON,
        "error": JSON,
        "x": JSON,
    },
)
ANY_ANSWER = st.fixed_dictionaries(
    {},
    optional={
        "data": st.fixed_dictionaries({"batch_results": st.lists(ANY_ITEM | JSON, max_size=4), "a": JSON}) | JSON,
        "errors": JSON,
        "z": JSON,
    },
)


@given(ANY_ANSWER | JSON, st.sampled_from([None, 0, 3]), st.booleans())
def test_any_other_json_is_read_as_json_is_or_refused(answer: Any, indent: int | None, ascii_only: bool) -> None:
    document = json.dumps(answer, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    try:
        found = read(document)
    except NotVaults:
        return
    assert found == expected(document)


@given(ITEMS.filter(bool), st.data())
def test_a_changed_byte_is_never_read_as_something_else_than_json_says(
    items: list[dict[str, Any]], data: st.DataObject
) -> None:
    document = bytearray(usual(items))
    at = data.draw(st.integers(0, len(document) - 1))
    document[at] = data.draw(st.integers(0, 255) | st.sampled_from(list(b'"\\{}[],:=A0 \n')))
    try:
        found = read(bytes(document))
    except NotVaults:
        return
    assert found == expected(bytes(document))


@given(ITEMS, st.data())
def test_a_truncated_answer_is_refused(items: list[dict[str, Any]], data: st.DataObject) -> None:
    document = usual(items).rstrip()
    cut = document[: data.draw(st.integers(0, len(document) - 1))]
    with pytest.raises(NotVaults):
        read(cut)
    with pytest.raises(NotVaults):
        read(document + document)


@given(st.binary(max_size=60))
@example(b"")
@example(b"<html>")
@example(b"[" * 100_000)
@example(b'{"data":' * 100_000)
@example(b'{"data":{"batch_results":[' + b"[" * MAX_DEPTH)
@example(b'"' + b"\\" * 100_000)
@example(b'{"a":' + b"9" * 100_000 + b"}")
@example(b'{"a":1e999999999,"data":{"batch_results":[]}}')
@example(b'{"errors":[' + b"9" * 100_000 + b"]}")
@example(b'{"errors":["\xff"]}')
@example(b"\x00" * 40)
def test_whatever_comes_is_read_or_refused_and_nothing_else_happens(document: bytes) -> None:
    with suppress(NotVaults):
        find_items(memoryview(document))


@pytest.mark.parametrize(
    "item",
    [
        b"5",
        b"null",
        b'"AAAA"',
        b'["AAAA"]',
        b'{"plaintext":5}',
        b'{"plaintext":["AAAA"]}',
        b'{"plaintext":"AAA"}',
        b'{"plaintext":"A==="}',
        b'{"plaintext":"AA=A"}',
        b'{"plaintext":"AAAA\\n"}',
        b'{"plaintext":" AAAA"}',
        b'{"plaintext":"AAAA-"}',
        b'{"plaintext":"\\u0041AAA"}',
        b'{"plaintext":"A\\/AA"}',
        b'{"plaintext":"AAAA","plaintext":"BBBB"}',
        b'{"plainte\\u0078t":"AAAA"}',
        b'{"plaintext":"AAAA"',
        b'{"plaintext":"AAAA"},',
        b'{"plaintext":"AAAA",}',
        b'{"plaintext" "AAAA"}',
        b"{'plaintext':'AAAA'}",
    ],
)
@pytest.mark.parametrize("space", [b"", b" "])
def test_an_item_that_vault_would_not_send_is_refused(item: bytes, space: bytes) -> None:
    whole = usual([encoded(b"first"), encoded(b"X")])
    document = whole.replace(b'{"plaintext":"WA==","reference":""}', space + item)
    assert document != whole
    with pytest.raises(NotVaults):
        read(document)


def test_an_item_without_a_plaintext_fails_alone() -> None:
    document = b'{"data":{"batch_results":[{},{"plaintext":null},{"plaintext":"QQ==","error":7},{"plaintext":"QQ=="}]}}'
    assert read(document) == [CiphertextRejected] * 3 + [b"A"]
    assert read(usual([{"plaintext": "", "error": TOO_OLD}, encoded(b"A")])) == [KeyVersionRetired, b"A"]


def test_a_second_data_that_says_otherwise_is_refused() -> None:
    answer = b'{"data":{"batch_results":[{"plaintext":"QUE=","reference":""}]},"data":null}'
    with pytest.raises(NotVaults):
        find_items(memoryview(answer))


def test_what_was_decoded_before_a_bad_item_is_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Plaintext, memoryview]] = []

    class Watched(Plaintext):
        @classmethod
        def allocate(cls, size: int) -> "Watched":
            plaintext = super().allocate(size)
            made.append((plaintext, plaintext.reveal()))
            return plaintext

    monkeypatch.setattr(batch_answer, "Plaintext", Watched)
    with SecretBuffer(1000) as buffer:
        document = usual([encoded(b"secret-1"), encoded(b"secret-2"), {"plaintext": "AAA"}])
        buffer.view[: len(document)] = document
        body = buffer.view[: len(document)]
        items = find_items(body).items
        assert items is not None
        with pytest.raises(NotVaults):
            open_items(body, buffer.address, items)
    assert len(made) == 2
    assert all(bytes(view) == bytes(8) for _, view in made)


def test_what_vault_says_is_told_and_nothing_else_is() -> None:
    assert find_items(memoryview(b'{"errors":["1 error","Vault is sealed"]}')).told == "1 error Vault is sealed"
    for document in (b'{"errors":5}', b"{}", b'{"errors":["\xff"]}', b'{"errors":{"a":1}}'):
        assert find_items(memoryview(document)).told == ""
