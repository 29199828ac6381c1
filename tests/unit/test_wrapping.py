"""What Vault answers to a wrapped decryption is believed where it is one, to the letter; of anything else nothing is
used, a plaintext in it least of all.
"""

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import (
    CiphertextRejected,
    CredentialsError,
    KeyVersionRetired,
    VaultDenied,
    VaultRefused,
    VaultSealed,
    VaultThrottled,
    VaultUnavailable,
)
from service.memory.secret_pages import SecretBuffer
from service.modules.handoff_ports import WrappedPair
from service.vault.wire import WireAnswer
from service.vault.wrapping import _wrapped
from tests.evidence import shown_with_locals
from tests.support import canary

PATH = "transit/decrypt/credentials-alpaca"
TOKEN = "hvs.CAESIJ" + "aB3-_" * 17
INFO: dict[str, Any] = {
    "token": TOKEN,
    "accessor": "bJ0s8yWcVfjHnOjKDSE2AShV",
    "ttl": 30,
    "creation_time": "2026-01-31T12:00:00.123456789Z",
    "creation_path": PATH,
    "wrapped_accessor": "",
}


def answer(info: Any = INFO, **changes: Any) -> bytes:
    """Vault's, in its own layout."""
    whole = {
        "request_id": "",
        "lease_id": "",
        "renewable": False,
        "lease_duration": 0,
        "data": None,
        "wrap_info": info,
        "warnings": None,
        "auth": None,
        "mount_type": "",
    }
    return json.dumps(whole | changes, separators=(",", ":")).encode() + b"\n"


def read(document: bytes, status: int = 200, *, seconds: int = 30, retry_after: str = "") -> WrappedPair:
    """What is made of a document that lies in a buffer, between other bytes."""
    with SecretBuffer(len(document) + 10) as buffer:
        buffer.view[:] = b"]" * 5 + document + b"}" * 5
        return _wrapped(PATH, seconds, WireAnswer(status, retry_after, buffer.view[5:-5], buffer.address + 5))


def changed(**changes: Any) -> dict[str, Any]:
    """The wrap info; None leaves a member out."""
    return {name: value for name, value in (INFO | changes).items() if value is not None}


@pytest.mark.parametrize("token", [TOKEN, TOKEN + ".x7Yz1", "s." + "a1" * 12, "s." + "a1" * 12 + ".ns1"])
def test_a_token_is_taken_as_it_is_and_shows_stars(token: str) -> None:
    wrapped = read(answer(changed(token=token)))
    with wrapped.token as held, held.reveal() as view:
        assert bytes(view) == token.encode()
    assert wrapped.creation_path == PATH
    assert wrapped.expires_at == datetime(2026, 1, 31, 12, 0, 30, 123456, tzinfo=UTC)
    assert token not in repr(wrapped) + str(wrapped) + f"{wrapped.token}"


def test_a_time_with_an_offset_is_the_same_instant() -> None:
    wrapped = read(answer(changed(creation_time="2026-01-31T13:00:00.5+01:00")))
    assert wrapped.expires_at == datetime(2026, 1, 31, 12, 0, 30, 500000, tzinfo=UTC)


UNWRAPPED = {"plaintext": "QUs=", "reference": ""}
# Answers of status 200 that are not what was asked for.
WRONG: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"<html>",
    "no object": b"[]",
    "half of it": answer()[:-20],
    "two answers": answer() + answer(),
    "unwrapped": answer(None, data=UNWRAPPED),
    "unwrapped, without a word on wrapping": json.dumps({"data": UNWRAPPED}).encode(),
    "wrapped and unwrapped": answer(data=UNWRAPPED),
    "a batch beside it": answer(data={"batch_results": [UNWRAPPED]}),
    "a login's": answer(auth={"client_token": TOKEN}),
    "wrap info twice": answer()[:-2] + b',"wrap_info":' + json.dumps(INFO).encode() + b"}",
    "wrap info as a text": answer("wrapped"),
    "no token": answer(changed(token=None)),
    "an empty token": answer(changed(token="")),
    "a token that is none": answer(changed(token="plaintext")),
    "a token with an escape": answer().replace(b"hvs.", b"hvs\\u002e"),
    "a token with a line break": answer(changed(token=TOKEN + "\n")),
    "a token in a list": answer(changed(token=[TOKEN])),
    "a batch token": answer(changed(token="hvb." + "a" * 90)),
    "a token without end": answer(changed(token="hvs." + "a" * 600)),
    "two tokens": answer().replace(b'"accessor"', b'"token"'),
    "of another key": answer(changed(creation_path="transit/decrypt/credentials-polygon")),
    "of another mount": answer(changed(creation_path="other/decrypt/credentials-alpaca")),
    "of anything": answer(changed(creation_path=PATH + "/..")),
    "of no path": answer(changed(creation_path=None)),
    "a path that is no text": answer(changed(creation_path=[PATH])),
    "longer than asked": answer(changed(ttl=31)),
    "already over": answer(changed(ttl=0)),
    "for ever": answer(changed(ttl=-1)),
    "a time as a text": answer(changed(ttl="30")),
    "half a second": answer(changed(ttl=0.5)),
    "true": answer(changed(ttl=True)),
    "no time": answer(changed(ttl=None)),
    "no beginning": answer(changed(creation_time=None)),
    "a beginning nowhere": answer(changed(creation_time="2026-01-31T12:00:00")),
    "a beginning that is none": answer(changed(creation_time="yesterday")),
    "beyond all time": answer(changed(creation_time="9999-12-31T23:59:59Z")),
    "no UTF-8": answer().replace(b"transit/decrypt", b"\xfftransit/decrypt"),
    "too deep": answer(changed(more=json.loads("[" * 20 + "]" * 20))),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("status", [200, 203, 204])
def test_what_is_not_wrapped_as_asked_is_refused(name: str, status: int) -> None:
    with pytest.raises(VaultUnavailable) as raised:
        read(WRONG[name], status)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("status", [201, 202, 206])
def test_a_token_in_an_answer_of_another_success_is_refused(status: int) -> None:
    with pytest.raises(VaultUnavailable):
        read(answer(), status)


def test_no_refusal_shows_what_was_in_the_answer() -> None:
    plaintext, token = canary(), "hvs." + canary() * 2
    info = changed(token=token, creation_path="elsewhere")
    for document in (answer(None, data={"plaintext": plaintext}), answer(info), answer(changed(token=token, ttl=99))):
        with pytest.raises(VaultUnavailable) as raised:
            read(document)
        shown = shown_with_locals(raised.value)
        assert plaintext not in shown
        assert token not in shown


def told(text: str) -> bytes:
    return json.dumps({"errors": [text]}).encode()


REFUSALS: list[tuple[int, bytes, type[CredentialsError]]] = [
    (400, told("ciphertext or signature version is disallowed by policy (too old)"), KeyVersionRetired),
    (400, told("invalid ciphertext: no prefix"), CiphertextRejected),
    (400, told("cipher: message authentication failed"), CiphertextRejected),
    (400, told("encryption key not found"), VaultRefused),
    (400, b"Bad Request", VaultUnavailable),  # a proxy's own
    (403, told("permission denied"), VaultDenied),
    (429, b"", VaultThrottled),
    (500, told("cipher: message authentication failed"), VaultUnavailable),  # not said of a ciphertext
    (502, b"<html>", VaultUnavailable),
    (503, told("Vault is sealed"), VaultSealed),
]


@pytest.mark.parametrize(("status", "document", "kind"), REFUSALS)
def test_what_vault_refuses_is_told_apart(status: int, document: bytes, kind: type[CredentialsError]) -> None:
    with pytest.raises(CredentialsError) as raised:
        read(document, status)
    assert type(raised.value) is kind


def test_a_token_in_a_refusal_is_not_looked_at() -> None:
    with pytest.raises(VaultDenied):
        read(answer(), 403)


SOME_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 400), st.text(max_size=12), st.sampled_from([TOKEN, PATH])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from([*INFO, "wrap_info", "data", "auth", "plaintext"]), inner, max_size=5),
    ),
    max_leaves=12,
)


@given(info=SOME_JSON, data=SOME_JSON, auth=SOME_JSON, seconds=st.integers(1, 300))
def test_whatever_comes_a_pair_is_one_that_was_wrapped_for_this(info: Any, data: Any, auth: Any, seconds: int) -> None:
    merged = INFO | info if isinstance(info, dict) else info
    with suppress(VaultUnavailable):
        wrapped = read(answer(merged, data=data, auth=auth), seconds=seconds)
        wrapped.token.wipe()
        assert (data, auth) == (None, None)
        assert merged["creation_path"] == wrapped.creation_path == PATH
        assert 1 <= merged["ttl"] <= seconds


@given(document=st.one_of(st.binary(max_size=60), st.builds(lambda at: answer()[:at], st.integers(0, 300))))
def test_whatever_bytes_come_no_other_error_does(document: bytes) -> None:
    for status in (200, 400, 500):
        with suppress(VaultUnavailable, VaultRefused):
            read(document, status).token.wipe()


@given(at=st.integers(0, 400), byte=st.integers(0, 255))
def test_a_byte_that_is_another_one_is_noticed_or_changes_nothing_that_counts(at: int, byte: int) -> None:
    document = bytearray(answer())
    document[at % len(document)] = byte
    with suppress(VaultUnavailable):
        wrapped = read(bytes(document))
        wrapped.token.wipe()
        assert wrapped.creation_path == PATH
        assert wrapped.expires_at.tzinfo is UTC
