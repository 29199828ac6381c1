"""The paper/live guard where keys are saved: who is asked, and what may be saved."""

import itertools
from typing import Any

import pytest

from service.errors import AccountTypeRefused, InvalidInput, ProviderThrottled
from service.memory.plaintext import Plaintext
from service.modules.account_type_guard import AccountTypeGuard
from service.modules.records import OwnerAccess, ProviderVerdict
from tests.support import canary
from tests.unit.credentials import NOW, some_credential


class Asked:
    """A provider that answers as the test says, and keeps what it was given."""

    def __init__(self, verdict: ProviderVerdict | Exception, *, has_account_types: bool = True) -> None:
        self.has_account_types = has_account_types
        self.verdict = verdict
        self.given: list[tuple[str, str]] = []

    async def validate(self, api_key: Plaintext, secret_key: Plaintext) -> ProviderVerdict:
        with api_key.reveal() as api, secret_key.reveal() as secret:
            self.given.append((str(api, "ascii"), str(secret, "ascii")))
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict


def access(account_type: Any) -> OwnerAccess:
    return OwnerAccess(user_id="alice", actor="user:alice", account_type=account_type)


BEFORE = some_credential(account_type="paper", validation_state="valid", last_validated_at=NOW, suspect_since=NOW)


async def checked(provider: Asked, account_type: str | None, keys: tuple[str, str] = ("AK", "SK")) -> Any:
    providers: Any = {"alpaca": provider}
    with Plaintext.copy_of("\n".join(keys)) as pair:
        return await AccountTypeGuard(providers).checked(access(account_type), BEFORE, pair)


@pytest.mark.parametrize(("required", "found"), [*itertools.product(("paper", "live"), ("paper", "live", None))])
async def test_only_keys_of_the_type_that_is_asked_for_pass_and_not_known_counts_as_live(
    required: str, found: Any
) -> None:
    provider = Asked(ProviderVerdict(is_valid=True, account_type=found))
    keys = canary("AK"), canary("SK")
    if (found or "live") != required:
        with pytest.raises(AccountTypeRefused):
            await checked(provider, required, keys)
    else:
        after = await checked(provider, required, keys)
        assert (after.account_type, after.validation_state) == (found, "valid")
        assert after.last_validated_at > NOW
    assert provider.given == [keys]


@pytest.mark.parametrize("required", ["paper", "live"])
async def test_keys_that_are_refused_are_not_saved_and_the_error_names_the_field(required: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        await checked(Asked(ProviderVerdict(is_valid=False)), required)
    assert refused.value.field == "api_key"


@pytest.mark.parametrize("required", ["paper", "live"])
async def test_a_provider_that_cannot_be_asked_has_nothing_saved(required: str) -> None:
    with pytest.raises(ProviderThrottled):
        await checked(Asked(ProviderThrottled(retry_after=3)), required)


@pytest.mark.parametrize(("required", "has_types"), [(None, True), (None, False), ("paper", False), ("live", False)])
async def test_where_any_account_will_do_or_none_has_a_type_nobody_is_asked_and_nothing_is_known(
    required: str | None, has_types: bool
) -> None:
    provider = Asked(AssertionError("asked"), has_account_types=has_types)
    after = await checked(provider, required)
    assert (after.account_type, after.validation_state, after.last_validated_at) == (None, "unvalidated", None)
    assert provider.given == []
