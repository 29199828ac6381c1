"""What is sent to Vault is JSON that says what was meant, and is wiped where it held plaintext."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.memory.base64_codec import encode_block
from service.memory.plaintext import Plaintext
from service.memory.secret_pages import SecretBuffer
from service.vault import batch_request
from service.vault.batch_request import decrypt_request, encrypt_request


def head(length: int) -> bytes:
    return b"length %d\r\n\r\n" % length


def body_of(request: bytes) -> dict[str, object]:
    first, _, body = request.partition(b"\r\n\r\n")
    assert first == b"length %d" % len(body)
    document = json.loads(body)
    assert document.pop("partial_failure_response_code") == 200
    assert isinstance(document, dict)
    return document


def b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


@given(st.lists(st.tuples(st.text(max_size=20) | st.just("vault:v1:AA+/=="), st.binary(max_size=150)), max_size=6))
def test_a_decryption_asks_for_what_it_was_given(items: list[tuple[str, bytes]]) -> None:
    assert body_of(decrypt_request(items, head)) == {
        "batch_input": [{"ciphertext": ciphertext, "context": b64(context)} for ciphertext, context in items]
    }


def test_half_a_surrogate_pair_does_not_fail_its_neighbours() -> None:
    document = body_of(decrypt_request([("x\ud800", b""), ("y", b"")], head))
    assert document == {
        "batch_input": [{"ciphertext": "x?", "context": ""}, {"ciphertext": "y", "context": ""}],
    }


@given(st.lists(st.tuples(st.binary(max_size=90), st.binary(max_size=150)), max_size=6))
def test_an_encryption_asks_for_what_it_was_given(items: list[tuple[bytes, bytes]]) -> None:
    with encrypt_request([(Plaintext(bytearray(plain)), context) for plain, context in items], head) as request:
        assert body_of(bytes(request.view)) == {
            "batch_input": [{"plaintext": b64(plain), "context": b64(context)} for plain, context in items]
        }


def test_a_plaintext_that_was_wiped_meanwhile_goes_as_zeros() -> None:
    gone, there = Plaintext(bytearray(b"gone")), Plaintext(bytearray(b"there"))
    gone.wipe()
    with encrypt_request([(gone, b""), (there, b"")], head) as request:
        assert body_of(bytes(request.view)) == {
            "batch_input": [
                {"plaintext": b64(bytes(4)), "context": ""},
                {"plaintext": b64(b"there"), "context": ""},
            ]
        }


def test_a_request_that_could_not_be_finished_is_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[SecretBuffer] = []  # held, or its finaliser would wipe it
    kept: list[memoryview] = []

    class Watched(SecretBuffer):
        def __init__(self, size: int) -> None:
            super().__init__(size)
            made.append(self)
            kept.append(self.view[:])

    def fails(_to: int, _source: int, _size: int) -> int:
        assert b"c2VjcmV0" in bytes(kept[0])
        raise RuntimeError

    steps = iter([encode_block, fails])

    def encodes_once(to: int, source: int, size: int) -> int:
        return next(steps)(to, source, size)

    monkeypatch.setattr(batch_request, "SecretBuffer", Watched)
    monkeypatch.setattr(batch_request, "encode_block", encodes_once)
    items = [(Plaintext(bytearray(b"secret")), b""), (Plaintext(bytearray(b"another")), b"")]
    with pytest.raises(RuntimeError):
        encrypt_request(items, head)
    assert len(kept) == 1
    assert not any(kept[0])
