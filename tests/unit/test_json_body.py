"""Request bodies: what is refused, what the refusal names, and that it never holds what was sent."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.json_body import Members, validated
from service.authz.policy import Identity, Role
from service.errors import InvalidInput, NothingToRollBack
from service.memory.plaintext import Plaintext
from service.modules.records import OwnerAccess
from service.schemas.credential_schemas import StoreCredentialRequest, UpdateCredentialRequest
from tests.support import canary
from tests.unit.fake_runtime import USER, Part, client_of

IDENTITIES = {"user-token": Identity(subject="alice", roles=frozenset({Role.USER}))}
JSON = {**USER, "Content-Type": "application/json"}
SECRET = canary()
GOOD: dict[str, Any] = {
    "account_id": "6f9619ff-8b86-4011-b42d-00c04fc964ff",
    "credential_type": "alpaca",
    "api_key": SECRET,
    "secret_key": SECRET,
}


@pytest.fixture
async def part() -> Part:
    part = Part()
    part.result = NothingToRollBack()  # any error: these tests end where the domain begins
    return part


@pytest.fixture
async def client(part: Part) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(part, IDENTITIES) as opened:
        yield opened


def refused_fields(answer: httpx.Response) -> list[str]:
    assert SECRET not in answer.text + str(answer.headers)
    return [error["field"] for error in answer.json()["errors"]]


BAD_TEXT = {
    "empty": b"",
    "not JSON": b"{" + SECRET.encode(),
    "cut off": json.dumps(GOOD).encode()[:-1],
    "something after": json.dumps(GOOD).encode() + SECRET.encode(),
    "single quotes": b"{'api_key': '" + SECRET.encode() + b"'}",
    "a string": json.dumps(SECRET).encode(),
    "a list": json.dumps([GOOD]).encode(),
    "null": b"null",
    "bad UTF-8": b'{"api_key": "' + SECRET.encode() + b'\xff"}',
    "UTF-16": json.dumps(GOOD).encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + json.dumps(GOOD).encode(),
    "a duplicate key": b'{"api_key": "x", "api_key": "' + SECRET.encode() + b'"}',
    "a duplicate key inside": b'{"api_key": {"a": 1, "a": "' + SECRET.encode() + b'"}}',
    "NaN": b'{"api_key": NaN}',
    "Infinity": b'{"api_key": -Infinity}',
    "a control character": b'{"api_key": "' + SECRET.encode() + b'\x00"}',
    "deep nesting": b'{"api_key": ' + b"[" * 8000,
    "deep objects": b'{"a":' * 3000,
    "a huge number": b'{"api_key": ' + b"1" * 8000 + b"}",
}


@pytest.mark.parametrize("body", BAD_TEXT.values(), ids=BAD_TEXT.keys())
async def test_what_is_not_one_json_object_is_422_and_names_the_body(
    body: bytes, client: httpx.AsyncClient, part: Part
) -> None:
    answer = await client.post("/v1/credentials", content=body, headers=JSON)
    assert (answer.status_code, refused_fields(answer)) == (422, ["body"])
    assert part.calls == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"account_id": 7}, "account_id"),
        ({"account_id": None}, "account_id"),
        ({"account_id": "a\0b"}, "account_id"),
        ({"credential_type": ["alpaca"]}, "credential_type"),
        ({"api_key": 12345678901234567890}, "api_key"),
        ({"api_key": {"a": SECRET}}, "api_key"),
        ({"api_key": True}, "api_key"),
        ({"api_key": f"{SECRET}\0"}, "api_key"),
        ({"api_key": f"{SECRET}\ud800"}, "api_key"),
        ({"secret_key": [SECRET]}, "secret_key"),
        ({SECRET: "an unknown field whose name is a secret"}, "body"),
        ({"user_id": SECRET}, "body"),
    ],
)
async def test_a_wrong_field_is_422_and_named(
    change: dict[str, Any], field: str, client: httpx.AsyncClient, part: Part
) -> None:
    answer = await client.post("/v1/credentials", content=json.dumps(GOOD | change), headers=JSON)
    assert (answer.status_code, refused_fields(answer)) == (422, [field])
    assert part.calls == []


async def test_each_missing_field_is_named(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/credentials", content=json.dumps({"api_key": SECRET}), headers=JSON)
    assert answer.status_code == 422
    assert sorted(refused_fields(answer)) == ["account_id", "credential_type", "secret_key"]
    assert {error["problem"] for error in answer.json()["errors"]} == {"is required"}


@pytest.mark.parametrize("active", ["true", 1, 0, "yes", [], {}])
async def test_is_active_is_a_boolean_and_nothing_like_one(active: Any, client: httpx.AsyncClient) -> None:
    path = f"/v1/credentials/{GOOD['account_id']}"
    answer = await client.patch(path, content=json.dumps({"is_active": active}), headers=JSON)
    assert (answer.status_code, refused_fields(answer)) == (422, ["is_active"])


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "text/plain",
        "text/json",
        "application/jsonp",
        "application/merge-patch+json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json; charset=latin-1",
        "application/json; charset=utf-16",
        "application/json, text/plain",
    ],
)
async def test_another_content_type_is_415(content_type: str | None, client: httpx.AsyncClient) -> None:
    headers = USER | ({"Content-Type": content_type} if content_type else {})
    answer = await client.post("/v1/credentials", content=json.dumps(GOOD).encode(), headers=headers)
    assert answer.status_code == 415
    assert SECRET not in answer.text


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "application/octet-stream"}, {"Content-Length": "0"}, JSON])
async def test_a_body_that_may_be_left_out_is_left_out_whatever_type_it_is_said_to_have(
    headers: dict[str, str], part: Part
) -> None:
    operator = {"user-token": Identity(subject="olga", roles=frozenset({Role.OPERATOR}))}
    async with client_of(part, operator) as client:
        answer = await client.post("/v1/users/alice/suspension", headers={**USER, **headers})
        sent = await client.post("/v1/users/alice/suspension", content=SECRET, headers=USER)
        begun = await client.post("/v1/users/alice/suspension", content=_nothing(), headers=JSON)
    assert answer.status_code == 409  # which is what the domain says here
    assert [(name, given["reason"]) for name, _, given in part.calls] == [("suspend", None)]
    assert (sent.status_code, begun.status_code) == (415, 422)  # a body of no type, and one that was begun


async def _nothing() -> AsyncIterator[bytes]:
    yield b""


async def test_a_compressed_body_is_415(client: httpx.AsyncClient) -> None:
    headers = {**JSON, "Content-Encoding": "gzip"}
    answer = await client.post("/v1/credentials", content=json.dumps(GOOD), headers=headers)
    assert answer.status_code == 415


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/JSON", "application/json; charset=utf-8", 'application/json;charset="UTF-8"'],
)
async def test_json_in_utf_8_is_taken(content_type: str, client: httpx.AsyncClient, part: Part) -> None:
    headers = {**USER, "Content-Type": content_type}
    await client.post("/v1/credentials", content=json.dumps(GOOD), headers=headers)
    assert [name for name, _, _ in part.calls] == ["store"]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [2048, 2049, 1_000_000])
async def test_the_limit_holds_with_and_without_content_length(chunked: bool, size: int, part: Part) -> None:
    body = json.dumps(GOOD | {"api_key": ""})
    body = json.dumps(GOOD | {"api_key": "x" * (size - len(body))})
    assert len(body) == size

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, size, 1000):
            yield body[start : start + 1000].encode()

    async with client_of(part, IDENTITIES, max_body_bytes=2048) as client:
        answer = await client.post("/v1/credentials", content=chunks() if chunked else body, headers=JSON)
    if size > 2048:
        assert answer.status_code == 413
        assert part.calls == []
    else:
        assert [name for name, _, _ in part.calls] == ["store"]


async def test_reading_stops_at_the_limit(part: Part) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1000
            yield b"x" * 1000

    async with client_of(part, IDENTITIES) as client:
        answer = await client.post("/v1/credentials", content=endless(), headers=JSON)
    assert answer.status_code == 413
    assert sent < 30_000


async def test_the_secrets_handed_to_the_domain_are_wiped_after_it_failed(part: Part) -> None:
    kept: list[Plaintext] = []

    def store(_access: OwnerAccess, new: Any, **_: Any) -> None:
        kept.extend([new.api_key, new.secret_key])
        assert bytes(new.api_key.reveal()) == SECRET.encode()
        raise NothingToRollBack

    part.result = store
    async with client_of(part, IDENTITIES) as client:
        await client.post("/v1/credentials", content=json.dumps(GOOD), headers=JSON)
    assert len(kept) == 2
    assert all(set(secret.reveal()) == {0} for secret in kept)


def test_the_refusal_keeps_no_reference_to_what_was_sent() -> None:
    with pytest.raises(InvalidInput) as refused:
        validated(StoreCredentialRequest, Members({"api_key": SECRET, SECRET: SECRET}))
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None
    assert SECRET not in repr(vars(refused.value))


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.sampled_from(["account_id", "credential_type", "api_key", "secret_key", "is_active"]) | st.text(), _values
    ),
    st.sampled_from([StoreCredentialRequest, UpdateCredentialRequest]),
)
def test_any_object_is_either_the_schema_or_a_refusal_that_names_schema_fields(
    parsed: dict[str, Any], schema: type[StoreCredentialRequest] | type[UpdateCredentialRequest]
) -> None:
    try:
        validated(schema, Members(parsed))
    except InvalidInput as error:
        problems = getattr(error, "problems", ((error.field, error.problem),))
        assert {field for field, _ in problems} <= {*schema.model_fields, "body"}
    else:
        assert parsed.keys() <= schema.model_fields.keys()
