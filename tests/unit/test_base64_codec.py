"""Base64 between addresses is everybody's base64, whoever does it."""

import base64
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.memory import base64_codec
from service.memory.secret_pages import SecretBuffer

Block = Callable[[int, int, int], int]
ENCODERS = [base64_codec.encode_block, base64_codec.slow_encode]
DECODERS = [base64_codec.decode_block, base64_codec.slow_decode]


@pytest.mark.parametrize("encode", ENCODERS)
@given(st.binary(max_size=200))
def test_encoding_is_base64s(encode: Block, plain: bytes) -> None:
    expected = base64.b64encode(plain)
    assert base64_codec.encoded_size(len(plain)) == len(expected)
    with SecretBuffer(200) as source, SecretBuffer(400) as target:
        source.view[: len(plain)] = plain
        assert encode(target.address, source.address, len(plain)) == len(expected)
        assert bytes(target.view[: len(expected)]) == expected
        assert not any(target.view[len(expected) :])


@pytest.mark.parametrize("decode", DECODERS)
@given(st.binary(max_size=200))
def test_decoding_in_place_is_base64s_and_writes_no_further(decode: Block, plain: bytes) -> None:
    encoded = base64.b64encode(plain)
    with SecretBuffer(300) as buffer:
        buffer.view[:] = b"!" * 300
        buffer.view[10 : 10 + len(encoded)] = encoded
        size = decode(buffer.address + 10, buffer.address + 10, len(encoded))
        assert size == len(encoded) // 4 * 3
        assert bytes(buffer.view[10 : 10 + len(plain)]) == plain
        assert bytes(buffer.view[:10]) == b"!" * 10
        assert bytes(buffer.view[10 + size : 10 + len(encoded)]) == encoded[size:]
        assert bytes(buffer.view[10 + len(encoded) :]) == b"!" * (290 - len(encoded))


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize("wrong", [b"A", b"AA", b"AAA", b"AAAAA", b"A*AA", b"AAA\x00", b"AAA\xff", b"AA\nA"])
def test_what_is_no_base64_is_refused(decode: Block, wrong: bytes) -> None:
    with SecretBuffer(16) as buffer:
        buffer.view[: len(wrong)] = wrong
        assert decode(buffer.address, buffer.address, len(wrong)) == -1


def test_the_loop_in_python_makes_no_integer_that_is_not_shared() -> None:
    """What it reads and writes are single bytes; CPython allocates nothing for integers up to 256."""
    every = bytes(range(256))
    with SecretBuffer(256) as source, SecretBuffer(400) as target:
        source.view[:] = every
        length = base64_codec.slow_encode(target.address, source.address, 256)
        assert bytes(target.view[:length]) == base64.b64encode(every)


def test_this_machines_openssl_was_found() -> None:
    assert "OpenSSL" in base64_codec.IN_USE
