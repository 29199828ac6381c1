"""A provider's Retry-After: kept for whom it was said about, as long as it was said for, and no longer."""

import math
from types import SimpleNamespace
from uuid import uuid4

import pytest

from service.errors import ProviderRefused, ProviderThrottled, ProviderUnavailable
from service.modules import provider_pauses
from service.modules.provider_pauses import ProviderPauses
from service.modules.records import Credential
from tests.unit.credentials import some_credential


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(provider_pauses, "time", SimpleNamespace(monotonic=made.monotonic))
    return made


@pytest.mark.parametrize("kind", [ProviderThrottled, ProviderUnavailable, ProviderRefused])
def test_a_credential_is_left_alone_for_as_long_as_its_provider_said_and_why_is_told(
    kind: type[ProviderUnavailable], clock: Clock
) -> None:
    pauses, credential = ProviderPauses(), some_credential()
    pauses.check(credential)
    pauses.note(credential, kind(retry_after=17))
    for passed, left in ((0, 17), (10, 7), (6, 1)):
        clock.now += passed
        with pytest.raises(kind) as refused:
            pauses.check(credential)
        assert type(refused.value) is kind
        assert refused.value.retry_after is not None
        assert math.isclose(refused.value.retry_after, left)
    clock.now += 1
    pauses.check(credential)


@pytest.mark.parametrize("seconds", [None, 0, 0.0])
def test_without_a_time_nobody_is_left_alone(seconds: float | None, clock: Clock) -> None:
    pauses, credential = ProviderPauses(), some_credential()
    pauses.note(credential, ProviderThrottled(retry_after=seconds))
    pauses.check(credential)


def test_another_credential_and_new_keys_are_asked_about_at_once(clock: Clock) -> None:
    pauses, credential = ProviderPauses(), some_credential()
    pauses.note(credential, ProviderThrottled(retry_after=60))
    pauses.check(some_credential())
    pauses.check(some_credential(id=credential.id, secret_version=credential.secret_version + 1))
    with pytest.raises(ProviderThrottled):
        pauses.check(some_credential(id=credential.id, secret_version=credential.secret_version))


def test_a_later_answer_goes_before_an_earlier_one(clock: Clock) -> None:
    pauses, credential = ProviderPauses(), some_credential()
    pauses.note(credential, ProviderThrottled(retry_after=3600))
    pauses.note(credential, ProviderThrottled(retry_after=5))
    clock.now += 5
    pauses.check(credential)


def test_of_more_than_it_remembers_the_oldest_is_forgotten(clock: Clock) -> None:
    pauses = ProviderPauses(remembered=3)
    credentials: list[Credential] = [some_credential(id=uuid4()) for _ in range(4)]
    for credential in (*credentials[:3], credentials[0], credentials[3]):  # the first is the newest of three again
        pauses.note(credential, ProviderThrottled(retry_after=60))
    pauses.check(credentials[1])
    for kept in (credentials[0], credentials[2], credentials[3]):
        with pytest.raises(ProviderThrottled):
            pauses.check(kept)
