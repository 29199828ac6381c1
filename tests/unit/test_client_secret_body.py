"""A body with keys: the JSON that `json` would make, in memory that is wiped, and shown by nothing."""

import json
from collections.abc import Mapping

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from service.client.secret_body import SecretBody
from service.errors import InvalidInput
from tests.shown import shown, shown_by_reporters
from tests.support import canary

KEY = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=60) | st.sampled_from(
    ['"', "\\", '\\"', "\\\\\\", '""', "a b", "\\u0041", "</script>", "x" * 512]
)
MEMBERS = st.dictionaries(st.sampled_from(["account_id", "credential_type", "is_active"]), st.text() | st.booleans())


async def sent(body: SecretBody) -> bytes:
    return b"".join([bytes(part) async for part in body])


async def made(members: Mapping[str, object], **keys: str | None) -> bytes:
    secrets = {name: None if key is None else SecretStr(key) for name, key in keys.items()}
    with SecretBody(members, secrets) as body:
        whole = await sent(body)
        assert len(body) == len(whole)
    return whole


@given(MEMBERS, KEY, KEY | st.just(""))
async def test_it_is_the_json_that_json_would_make(members: dict[str, object], api_key: str, secret_key: str) -> None:
    expected = {**members, "api_key": api_key, "secret_key": secret_key}
    assert await made(members, api_key=api_key, secret_key=secret_key) == json.dumps(expected).encode()


@pytest.mark.parametrize("members", [{}, {"is_active": False}], ids=["no-members", "members"])
async def test_what_is_not_given_is_not_there(members: dict[str, object]) -> None:
    assert json.loads(await made(members, api_key=None, secret_key='q"')) == {**members, "secret_key": 'q"'}
    assert json.loads(await made(members, api_key=None, secret_key=None)) == members


async def test_when_the_block_has_ended_it_reads_as_zeros_and_so_do_views_of_it() -> None:
    with SecretBody({}, {"api_key": SecretStr(canary())}) as body:
        (view,) = [part async for part in body]
        size = len(view)
    assert bytes(view) == bytes(size)
    assert await sent(body) == bytes(size)


async def test_nothing_shows_the_keys() -> None:
    secret = canary()
    with SecretBody({}, {"api_key": SecretStr(secret)}) as body:
        request = httpx.Request("POST", "http://service.test", content=body, headers={"Content-Length": str(len(body))})
        assert secret not in "\n".join([*shown(body), repr(request), repr(vars(request))])


async def test_httpx_sends_it_with_its_length_and_not_in_chunks() -> None:
    with SecretBody({}, {"api_key": SecretStr(canary())}) as body:
        request = httpx.Request("POST", "http://service.test", content=body, headers={"Content-Length": str(len(body))})
        assert "transfer-encoding" not in request.headers


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("new\nline", "must be printable ASCII"),
        ("nül", "must be printable ASCII"),
        ("\ud800", "must be printable ASCII"),
        ("a\x00b", "must be printable ASCII"),
        (" a", "must not begin or end with a space"),
        ("x" * 513, "must have at most 512 characters"),
    ],
    ids=repr,
)
def test_what_no_key_can_be_is_refused_by_its_field_alone(value: str, problem: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        SecretBody({}, {"api_key": SecretStr("good"), "secret_key": SecretStr(value)})
    assert (raised.value.field, raised.value.problem) == ("secret_key", problem)


@pytest.mark.parametrize("kind", [str, str.encode])
def test_a_key_that_is_no_secretstr_is_refused_and_not_shown(kind: type[str]) -> None:
    secret = canary()
    with pytest.raises(InvalidInput) as raised:
        SecretBody({}, {"api_key": kind(secret)})  # type: ignore[dict-item]
    assert raised.value.problem == "must be a SecretStr"
    assert not [where for where, text in shown_by_reporters(raised.value).items() if secret in text]


def test_a_refused_key_is_not_shown_by_the_frames_that_refused_it() -> None:
    secret = canary() + "\n"
    with pytest.raises(InvalidInput) as raised:
        SecretBody({}, {"api_key": SecretStr(secret)})
    assert not [where for where, text in shown_by_reporters(raised.value).items() if secret.strip() in text]
