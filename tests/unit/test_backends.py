"""Where the tests' servers come from: never another place than the one that was insisted on."""

from pathlib import Path

import pytest

from tests import conftest


@pytest.fixture(autouse=True)
def _no_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")


def test_containers_that_cannot_be_had_are_an_error_and_nothing_else_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_BACKEND", "containers")
    # pytest ends with exit status 4, before the first test.
    with pytest.raises(pytest.UsageError, match="TEST_BACKEND=containers: no Docker daemon answers"):
        conftest.backend.__wrapped__()


@pytest.mark.parametrize(("wanted", "why"), [("auto", "no Docker daemon answers"), ("local", "TEST_BACKEND")])
def test_without_docker_the_tests_use_this_machine_and_say_why(
    monkeypatch: pytest.MonkeyPatch, wanted: str, why: str
) -> None:
    monkeypatch.setenv("TEST_BACKEND", wanted)
    assert conftest.backend.__wrapped__() == ("local", why)
