"""What a hand-off says, and what Vault answers, is read strictly: anything else is refused, whatever it is."""

import base64
import json
import ssl
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.client import VaultOptions, unwrapping
from service.client.unwrapping import HandOff, Unwrapper, handed_off
from service.client.vault_options import plain_url
from service.errors import (
    ConfigurationError,
    CredentialsError,
    HandOffExpired,
    HandOffMisdirected,
    HandOffUnreadable,
    UnexpectedAnswer,
    VaultDenied,
    VaultSealed,
    VaultThrottled,
    VaultUnavailable,
)
from service.memory.plaintext import Plaintext
from service.memory.secret_pages import SecretBuffer
from service.tls import tls_context
from service.vault.wire import WireAnswer
from tests.shown import shown, shown_by_reporters
from tests.support import canary

TLS = tls_context()
PATH = "transit/decrypt/credentials-alpaca"


def answer(**changes: Any) -> bytes:
    """The service's answer to a hand-off; what is None is left out."""
    told = {
        "handoff_id": str(uuid4()),
        "wrapping_token": "hvs.CAESIJ",
        "expires_at": "2026-01-01T00:00:00Z",
        "creation_path": PATH,
        "vault_addr": "https://vault.test:8200",
        "vault_namespace": "",
        "credential_type": "alpaca",
        "account_type": "paper",
        "secret_version": 1,
    } | changes
    return json.dumps({name: value for name, value in told.items() if value is not None}).encode()


def vaults(read: Any, document: bytes, status: int = 200, retry_after: str = "") -> Any:
    """What is read of an answer that lies between other bytes."""
    with SecretBuffer(len(document) + 10) as buffer:
        buffer.view[:] = b'"' * 5 + document + b'"' * 5
        found = read(WireAnswer(status, retry_after, buffer.view[5:-5], buffer.address + 5))
        assert bytes(buffer.view[:5]) == bytes(buffer.view[-5:]) == b'"' * 5
    return found


def opened(document: bytes, status: int = 200) -> bytes | CredentialsError:
    """The plaintext, or what it was refused with."""
    found = vaults(unwrapping._unwrapped, document, status)
    if isinstance(found, Plaintext):
        with found:
            return bytes(found.reveal())
    error: CredentialsError = found.error
    return error


def wrapped(plaintext: bytes) -> bytes:
    """As Vault answers to the unwrapping of a decryption."""
    told = {"request_id": "2590c1ea", "lease_id": "", "data": {"plaintext": base64.b64encode(plaintext).decode()}}
    return json.dumps({**told, "wrap_info": None, "warnings": None, "auth": None}, separators=(",", ":")).encode()


# --- the service's answer ---------------------------------------------------------------------------------------------


def test_a_hand_off_is_read_and_shows_no_token() -> None:
    token = f"hvs.{canary('T')}"
    found = handed_off(answer(wrapping_token=token, vault_namespace=None).replace(b"}", b', "vault_namespace": null}'))
    with found.token:
        assert bytes(found.token.reveal()) == token.encode()
        assert (found.vault_addr, found.vault_namespace) == ("https://vault.test:8200", None)
        assert token not in "\n".join(shown(found))


@pytest.mark.parametrize(
    "changes",
    [
        {"wrapping_token": None},
        {"wrapping_token": ""},
        {"wrapping_token": 7},
        {"wrapping_token": 'hvs.x"}'},
        {"wrapping_token": "hvs.x\r\nX-Vault-Namespace: other"},
        {"wrapping_token": "hvs.ü"},
        {"wrapping_token": "\ud800"},
        {"wrapping_token": "x" * 1025},
        {"creation_path": None},
        {"creation_path": ["transit"]},
        {"vault_addr": None},
        {"vault_namespace": None},
        {"vault_namespace": 7},
        {"credential_type": None},
        {"handoff_id": "../failure"},
        {"handoff_id": None},
    ],
    ids=str,
)
def test_what_is_no_hand_off_is_refused_and_its_token_not_shown(changes: dict[str, Any]) -> None:
    secret = canary("T")
    body = answer(**{"wrapping_token": f"hvs.{secret}"} | changes, note=secret)
    with pytest.raises(UnexpectedAnswer) as raised:
        handed_off(body)
    assert not [where for where, text in shown_by_reporters(raised.value).items() if secret in text]


@given(
    st.binary(max_size=100)
    | st.dictionaries(st.text(max_size=20), st.text(max_size=20)).map(json.dumps).map(str.encode)
)
def test_any_other_body_is_no_hand_off(body: bytes) -> None:
    with pytest.raises(UnexpectedAnswer):
        handed_off(body)


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000, b"\xff\xfe"])
def test_a_hostile_body_is_no_hand_off(body: bytes) -> None:
    with pytest.raises(UnexpectedAnswer):
        handed_off(body)


# --- Vault's answer to the lookup -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"creation_path": PATH},
        {"creation_path": PATH, "creation_ttl": "30"},
        {"creation_path": PATH, "creation_ttl": True},
        {"creation_path": PATH, "creation_ttl": 0},
        {"creation_path": PATH, "creation_ttl": -1},
        {"creation_path": PATH, "creation_ttl": 30.5},
        {"creation_path": PATH, "creation_ttl": 10**400},
        {"creation_path": [PATH], "creation_ttl": 30},
        [],
        None,
    ],
    ids=lambda each: str(each)[:60],
)
def test_a_lookup_without_what_is_asked_for_is_an_answer_of_something_elses(data: object) -> None:
    found = vaults(unwrapping._looked_up, json.dumps({"data": data}).encode())
    assert isinstance(found.error, VaultUnavailable)
    assert not found.is_unknown


def test_a_lookup_tells_the_path_and_the_time() -> None:
    told = {"data": {"creation_path": PATH, "creation_time": "2026-01-01T00:00:00Z", "creation_ttl": 30}}
    assert vaults(unwrapping._looked_up, json.dumps(told).encode()) == (PATH, 30.0)


@pytest.mark.parametrize(
    ("status", "errors", "kind"),
    [
        (400, ["wrapping token is not valid or does not exist"], HandOffExpired),
        (400, ["something else"], VaultUnavailable),
        (403, ["permission denied"], VaultDenied),
        (429, [], VaultThrottled),
        (503, ["Vault is sealed"], VaultSealed),
        (503, [], VaultUnavailable),
        (307, [], VaultUnavailable),
        (200, ["no data"], VaultUnavailable),
        (400, {"not": "a list"}, VaultUnavailable),
    ],
)
def test_a_refusal_is_told_by_what_it_means(status: int, errors: object, kind: type[CredentialsError]) -> None:
    document = json.dumps({"errors": errors}).encode()
    for read in (unwrapping._looked_up, unwrapping._unwrapped):
        found = vaults(read, document, status, "7")
        wanted = HandOffUnreadable if status == 200 and read is unwrapping._unwrapped else kind
        assert type(found.error) is wanted
        assert found.is_unknown is (kind is HandOffExpired)
        if isinstance(found.error, VaultUnavailable):
            assert found.error.retry_after == 7.0


@given(st.binary(max_size=200), st.integers(100, 599))
def test_whatever_vault_answers_is_a_refusal_or_what_was_asked_for(document: bytes, status: int) -> None:
    for read in (unwrapping._looked_up, unwrapping._unwrapped):
        assert isinstance(vaults(read, document, status).error, CredentialsError)


# --- Vault's answer to the unwrapping ---------------------------------------------------------------------------------


@given(st.binary(min_size=1, max_size=1100))
def test_what_was_wrapped_is_read(plaintext: bytes) -> None:
    assert opened(wrapped(plaintext)) == plaintext


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{}",
        b"[]",
        b'{"data":null}',
        b'{"data":[]}',
        b'{"data":{}}',
        b'{"data":{"plaintext":null}}',
        b'{"data":{"plaintext":""}}',
        b'{"data":{"plaintext":7}}',
        b'{"data":{"plaintext":["QQ=="]}}',
        b'{"data":{"plaintext":"Q"}}',
        b'{"data":{"plaintext":"QQ"}}',
        b'{"data":{"plaintext":"QQ=="}',
        b'{"data":{"plaintext":"QQ=="}}x',
        b'{"data":{"plaintext":"QQ==","plaintext":"Qg=="}}',
        b'{"data":{"plaintext":"QQ=="},"data":{"plaintext":"Qg=="}}',
        b'{"data":{"plaintext":"\\u0051Q=="}}',
        b'{"data":{"plaintext":"QQ-_"}}',
        b'{"data":{"plain\\u0074ext":"QQ=="}}',
        b'{"data":{"ciphertext":"vault:v1:QQ=="}}',
        b'{"data":' + b"[" * 100_000,
    ],
    ids=lambda each: each[:60].decode(),
)
def test_what_is_no_decryption_is_unreadable(document: bytes) -> None:
    assert isinstance(opened(document), HandOffUnreadable)


@given(st.data())
def test_an_answer_with_a_byte_changed_or_cut_off_is_read_as_json_says_or_not_at_all(data: st.DataObject) -> None:
    document = bytearray(wrapped(b"PKEXAMPLE\nsecret"))
    at = data.draw(st.integers(0, len(document) - 1))
    if data.draw(st.booleans()):
        document[at] = data.draw(st.integers(0, 255))
    else:
        del document[at:]
    found = opened(bytes(document))
    if isinstance(found, bytes):
        told = json.loads(document.decode("utf-8", "replace"))  # of what isn't used, no byte is looked at
        assert found == base64.b64decode(told["data"]["plaintext"], validate=True)


# --- where to -------------------------------------------------------------------------------------------------------


def hand_off(**changes: Any) -> HandOff:
    given: dict[str, Any] = {
        "handoff_id": str(uuid4()),
        "token": Plaintext.copy_of("hvs.x"),
        "creation_path": PATH,
        "vault_addr": "https://vault.test:8200",
        "vault_namespace": None,
        "credential_type": "alpaca",
    } | changes
    return HandOff(**given)


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({}, {"creation_path": "sys/wrapping/wrap"}),
        ({}, {"creation_path": "transit/decrypt/other-alpaca"}),
        ({}, {"creation_path": "kv/decrypt/credentials-alpaca"}),
        ({}, {"creation_path": "transit/encrypt/credentials-alpaca"}),
        ({}, {"credential_type": "polygon"}),
        ({"transit_mount": "other"}, {}),
        ({"key_prefix": "other-"}, {}),
        ({}, {"vault_addr": "http://vault.test:8200"}),
        ({}, {"vault_addr": "https://user:pass@vault.test"}),
        ({}, {"vault_addr": "https://vault.test/?x="}),
        ({}, {"vault_addr": "https://vault.test:99999"}),
        ({}, {"vault_addr": "https://vault.test\r\nX: y"}),
        ({}, {"vault_addr": "unix:///var/run/vault.sock"}),
        ({}, {"vault_addr": ""}),
        ({}, {"vault_namespace": "a\r\nX-Vault-Token: b"}),
        ({}, {"vault_namespace": "ü"}),
        ({"allowed_addrs": ["https://other.test:8200"]}, {}),
        ({"allowed_addrs": []}, {}),
        ({"allowed_addrs": ["https://vault.test:8200"]}, {"vault_addr": "https://vault.test:8201"}),
        ({"allowed_addrs": ["https://vault.test:8200"]}, {"vault_addr": "https://vault.test:8200/other"}),
        ({"allowed_addrs": ["https://vault.test:8200"]}, {"vault_addr": "https://vault.test.elsewhere.test:8200"}),
    ],
    ids=str,
)
async def test_a_hand_off_that_points_elsewhere_is_not_unwrapped(
    options: dict[str, Any], changes: dict[str, Any]
) -> None:
    # There is no network here: what went on to connect would raise something else.
    unwrapper = Unwrapper(VaultOptions(tls=TLS, **options))
    with pytest.raises(HandOffMisdirected):
        await unwrapper.unwrap(hand_off(**changes), asked_at=1e12, ttl=30)


async def test_a_service_that_names_ever_new_places_is_not_followed() -> None:
    unwrapper = Unwrapper(VaultOptions(tls=TLS))
    for number in range(8):
        unwrapper._wire_to(hand_off(vault_addr=f"https://vault{number}.test"))
    with pytest.raises(HandOffMisdirected):
        unwrapper._wire_to(hand_off(vault_addr="https://vault8.test"))
    unwrapper._wire_to(hand_off(vault_addr="https://vault7.test"))


def test_a_pinned_address_and_namespace_go_before_what_the_service_says() -> None:
    options = VaultOptions(tls=TLS, addr="https://vault.test/", namespace="")
    unwrapper = Unwrapper(options)
    unwrapper._wire_to(hand_off(vault_addr="https://evil.test", vault_namespace="evil"))
    assert list(unwrapper._wires) == [("https://vault.test", "")]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://vault.test", "https://vault.test"),
        ("https://Vault.TEST:443/", "https://vault.test"),
        ("https://vault.test:8200/Base/", "https://vault.test:8200/Base"),
        ("http://127.0.0.1:80", "http://127.0.0.1"),
        ("http://[::1]:8200", "http://[::1]:8200"),
        ("https://vault.test:", "https://vault.test"),
    ],
)
def test_an_address_has_one_spelling(given: str, kept: str) -> None:
    assert plain_url(given, allow_plain=False) == kept


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"addr": "http://vault.test"}, "VaultOptions.addr"),
        ({"addr": "vault.test"}, "VaultOptions.addr"),
        ({"allowed_addrs": ["https://vault.test", "http://vault.test"]}, "allowed_addrs"),
        ({"addr": "https://a.test", "allowed_addrs": ["https://b.test"]}, "VaultOptions.addr"),
        ({"namespace": "a b"}, "VaultOptions.namespace"),
        ({"namespace": "a\r\nb"}, "VaultOptions.namespace"),
    ],
    ids=str,
)
def test_options_that_can_not_be_are_refused_by_their_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        Unwrapper(VaultOptions(tls=TLS, **options))


def test_tls_that_verifies_nothing_is_refused() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    with pytest.raises(ConfigurationError, match=r"VaultOptions\.tls"):
        Unwrapper(VaultOptions(tls=context))
