"""If-Match and Idempotency-Key, as headers come."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.preconditions import parse_if_match
from service.authz.policy import Identity, Role
from service.errors import InvalidInput, NothingToRollBack
from tests.unit.fake_runtime import USER, Part, client_of

IDENTITIES = {"user-token": Identity(subject="alice", roles=frozenset({Role.USER}))}
ID = "6f9619ff-8b86-4011-b42d-00c04fc964ff"
STORE = json.dumps({"account_id": ID, "credential_type": "alpaca", "api_key": "k", "secret_key": "s"})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], None),
        (["*"], None),
        ([" * "], None),
        (['"3"'], {3}),
        (['"3", "4"'], {3, 4}),
        (['"3","4"'], {3, 4}),
        (['"3"', '"4"'], {3, 4}),
        ([', "3" ,, '], {3}),
        (['W/"3"'], set()),
        (['W/"3", "4"'], {4}),
        (['""'], set()),
        (['"abc"'], set()),
        (['"03"'], set()),
        (['"0"'], set()),
        (['"-3"'], set()),
        (['"9999999999999999999999"'], set()),
        (['"3,4"'], set()),
    ],
)
def test_if_match_is_the_versions_it_names(values: list[str], expected: set[int] | None) -> None:
    assert parse_if_match(values) == expected


@pytest.mark.parametrize(
    "values",
    [[""], [" "], [","], ["3"], ['"3'], ['3"'], ['"3""4"'], ['"3" "4"'], ['w/"3"'], ['W/ "3"'], ['"3", *'], ["*", "*"],
     ["*, *"], ['"a b"'], ["'3'"], ['"3";'], ['"\x7f"']],
)  # fmt: skip
def test_what_is_no_list_of_etags_is_refused(values: list[str]) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_if_match(values)
    assert refused.value.field == "If-Match"


@given(st.lists(st.text(st.characters(max_codepoint=255))))
def test_any_header_is_versions_or_refused(values: list[str]) -> None:
    try:
        versions = parse_if_match(values)
    except InvalidInput:
        return
    assert versions is None or all(0 < version < 2**63 for version in versions)


@given(st.frozensets(st.integers(1, 10**18 - 1), min_size=1))
def test_our_own_etags_are_always_understood(versions: frozenset[int]) -> None:
    assert parse_if_match([", ".join(f'"{version}"' for version in versions)]) == versions


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PATCH", f"/v1/credentials/{ID}"),
        ("DELETE", f"/v1/credentials/{ID}"),
        ("POST", f"/v1/credentials/{ID}/rollback"),
    ],
)
async def test_changes_take_if_match_and_demand_it_where_settings_do(method: str, path: str) -> None:
    part = Part()
    part.result = NothingToRollBack()
    request: dict[str, Any] = {"content": b'{"is_active": false}'} if method == "PATCH" else {}
    headers = {**USER, "Content-Type": "application/json"}
    async with client_of(part, IDENTITIES, require_if_match=True) as client:
        answers = [
            await client.request(method, path, headers=headers | extra, **request)
            for extra in ({}, {"If-Match": "bad"}, {"If-Match": "*"}, {"If-Match": '"7"'})
        ]
    assert [answer.status_code for answer in answers] == [428, 422, 409, 409]
    assert [kwargs["if_match"] for _, _, kwargs in part.calls] == [None, {7}]


@pytest.mark.parametrize("key", ["a", "~" * 255, '"8e03978e-40d5-43dd-bc93-6894a57f9324"'])
async def test_an_idempotency_key_reaches_the_writer_as_it_is(key: str) -> None:
    part = Part()
    part.result = NothingToRollBack()
    headers = {**USER, "Content-Type": "application/json", "Idempotency-Key": key}
    async with client_of(part, IDENTITIES) as client:
        await client.post("/v1/credentials", content=STORE, headers=headers)
    assert [kwargs["idempotency_key"] for _, _, kwargs in part.calls] == [key]


@pytest.mark.parametrize(
    "keys", [[b""], [b"a" * 256], [b"a b"], ["ä".encode()], [b"a\x7f"], [b"a", b"a"], [b"a", b"b"]]
)
async def test_what_is_no_single_idempotency_key_is_refused(keys: list[bytes]) -> None:
    part = Part()
    headers = [(b"Authorization", b"Bearer user-token"), (b"Content-Type", b"application/json")]
    async with client_of(part, IDENTITIES) as client:
        answer = await client.post(
            "/v1/credentials", content=STORE, headers=[*headers, *((b"Idempotency-Key", key) for key in keys)]
        )
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["Idempotency-Key"]
    assert part.calls == []
