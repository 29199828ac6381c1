"""What more than one module of this folder needs."""

from collections.abc import Iterator

import pytest

from tests.conftest import backend, start_stack
from tests.security.policy_vault import PolicyVault, policy_vault
from tests.support import Stack


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PolicyVault]:
    """A Vault of the module's own, where every role may do what it may."""
    with policy_vault(tmp_path_factory.mktemp("policies") / "vault", backend()[0]) as started:
        yield started


@pytest.fixture(scope="package")
def keys_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack beside the shared one, for who may rotate keys and suspend, and does."""
    with start_stack(tmp_path_factory.mktemp("keys")) as started:
        yield started
