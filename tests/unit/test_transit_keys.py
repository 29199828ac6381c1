"""What Vault says of its keys, and of a rewrap, read strictly: anything else is not Vault's."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.errors import (
    CiphertextRejected,
    CredentialsError,
    KeyNotFound,
    KeyVersionRetired,
    VaultDenied,
    VaultSealed,
    VaultUnavailable,
)
from service.modules.records import Seal
from service.vault.transit_keys import TransitKeys, _description, _rewrapped
from service.vault.wire import WireAnswer

KEY: dict[str, Any] = {
    "latest_version": 3,
    "min_decryption_version": 2,
    "min_encryption_version": 0,
    "min_available_version": 0,
    "auto_rotate_period": 3600,
    "keys": {"2": 1700000000, "3": 1700003600},
}


def answer(body: Any, status: int = 200) -> WireAnswer:
    return WireAnswer(status, "", memoryview(json.dumps(body).encode()), 0)


def test_a_key_is_described_with_the_dates_of_its_versions() -> None:
    described = _description("k", KEY)
    assert (described.name, described.latest_version, described.min_decryption_version) == ("k", 3, 2)
    assert described.auto_rotate_period == timedelta(hours=1)
    assert described.created == {2: datetime.fromtimestamp(1700000000, UTC), 3: datetime.fromtimestamp(1700003600, UTC)}
    assert _description("k", {**KEY, "auto_rotate_period": 0}).auto_rotate_period is None


def test_a_signing_keys_versions_are_objects_that_tell_their_date() -> None:
    versions = {"1": {"creation_time": "2026-01-02T03:04:05.123456789Z", "public_key": "x"}}
    assert _description("k", {**KEY, "keys": versions}).created == {1: datetime(2026, 1, 2, 3, 4, 5, 123456, UTC)}


@pytest.mark.parametrize(
    "changed",
    [
        {"latest_version": "3"},
        {"latest_version": True},
        {"min_decryption_version": -1},
        {"min_encryption_version": None},
        {"keys": []},
        {"keys": {}},
        {"keys": {"x": 1700000000}},
        {"keys": {"1": "yesterday"}},
        {"keys": {"1": {}}},
        {"keys": {"1": {"creation_time": "yesterday"}}},
        {"keys": {"1": 10**30}},
    ],
)
def test_an_answer_that_is_not_vaults_describes_no_key(changed: dict[str, Any]) -> None:
    with pytest.raises(VaultUnavailable):
        _description("k", {**KEY, **changed})


@pytest.mark.parametrize("name", ["", "a/b", "../k", "k?x", "k\n", ".k", "kéy"])
async def test_a_name_that_would_be_another_path_is_no_key(name: str) -> None:
    class Never:
        async def request(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError(args, kwargs)

    with pytest.raises(KeyNotFound):
        await TransitKeys(Never(), "transit").describe(name)  # type: ignore[arg-type]  # never used


def test_what_was_rewrapped_and_what_was_not_come_back_in_their_places() -> None:
    results = [
        {"ciphertext": "vault:v3:AAAA", "key_version": 3},
        {"error": "cipher: message authentication failed"},
        {"error": "ciphertext or signature version is disallowed by policy (too old)"},
    ]
    good, bad, old = _rewrapped(3, answer({"data": {"batch_results": results}})) or []
    assert good == Seal(ciphertext="vault:v3:AAAA", transit_key_version=3)
    assert isinstance(bad, CiphertextRejected)
    assert isinstance(old, KeyVersionRetired)
    assert len(_rewrapped(1, answer({"data": {"batch_results": results[1:2]}}, 400)) or []) == 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"data": None},
        {"data": {"batch_results": {}}},
        {"data": {"batch_results": [1]}},
        {"data": {"batch_results": []}},
        {"data": {"batch_results": [{}]}},
        {"data": {"batch_results": [{"ciphertext": "vault:v0:AAAA"}]}},
        {"data": {"batch_results": [{"ciphertext": None}]}},
    ],
)
def test_an_answer_that_is_not_vaults_rewraps_nothing(body: Any) -> None:
    assert _rewrapped(1, answer(body)) is None


@pytest.mark.parametrize(
    ("status", "told", "raised"),
    [(403, "permission denied", VaultDenied), (503, "Vault is sealed", VaultSealed), (502, "", VaultUnavailable)],
)
def test_a_refusal_of_the_whole_batch_is_raised(status: int, told: str, raised: type[CredentialsError]) -> None:
    with pytest.raises(raised):
        _rewrapped(1, answer({"errors": [told]}, status))
