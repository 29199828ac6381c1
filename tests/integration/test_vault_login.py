"""Logging in to Vault as people have it: AppRole in its forms, Kubernetes, a token file; and keeping the token good."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from service.composition import Runtime
from service.errors import ConfigurationError, VaultDenied, VaultLoginFailed
from service.settings import VaultLogin
from tests.conftest import backend
from tests.doubles.kubernetes_login import KubernetesLogin
from tests.own_vault import NAMES, OwnVault, own_vault
from tests.support import Stack, canary
from tests.written import Somebody, pair_of_keys

LOGIN = "auth/approle/login"
RENEWAL = "auth/token/renew-self"
SECRET_ID = f"auth/approle/role/{NAMES.role}/secret-id"
BELIEVED = 2.1
"""Seconds after a login from which a refused token is taken for a lost one, and a little more."""


@pytest.fixture(scope="module")
async def vault(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OwnVault]:
    """A Vault of this module's own, whose audit log counts logins."""
    async with own_vault(stack, tmp_path_factory.mktemp("login"), backend()[0]) as made:
        yield made


async def works(runtime: Runtime) -> None:
    """Stores and opens."""
    somebody, keys = Somebody(), pair_of_keys()
    assert await somebody.opens(runtime, (await somebody.store(runtime, keys)).id) == keys


def revoke(vault: OwnVault, token: str) -> None:
    assert vault.ask("POST", "auth/token/revoke", {"token": token}).is_success


def revoke_all(vault: OwnVault) -> None:
    """Revokes every token that an AppRole login gave."""
    assert vault.ask("PUT", "sys/leases/revoke-force/auth/approle/login").is_success


def wrapped_secret_id(vault: OwnVault, path: str = SECRET_ID) -> str:
    """A response-wrapping token around a new secret id."""
    answer = vault.ask("POST", path, {}, X_Vault_Wrap_TTL="60s")
    return str(answer.json()["wrap_info"]["token"])


# --- keeping the token ------------------------------------------------------------------------------------------


async def test_a_token_is_renewed_ahead_of_its_expiry(vault: OwnVault) -> None:
    role_id, secret_id = vault.role("short", token_ttl="3s", token_max_ttl="1h")
    logins, renewals = len(vault.audited(LOGIN)), len(vault.audited(RENEWAL))
    async with Runtime.open(vault.settings(vault_role_id=role_id, vault_secret_id=secret_id)) as runtime:
        await works(runtime)
        await asyncio.sleep(5)
        await works(runtime)
    assert len(vault.audited(LOGIN)) == logins + 1
    assert len(vault.audited(RENEWAL)) >= renewals + 2


async def test_a_token_at_the_end_of_its_longest_life_is_followed_by_another_login(vault: OwnVault) -> None:
    role_id, secret_id = vault.role("mortal", token_ttl="4s", token_max_ttl="6s")
    logins = len(vault.audited(LOGIN))
    async with Runtime.open(vault.settings(vault_role_id=role_id, vault_secret_id=secret_id)) as runtime:
        for _ in range(10):
            await works(runtime)  # at no time is there an error
            await asyncio.sleep(1)
    assert 2 <= len(vault.audited(LOGIN)) - logins <= 6


async def test_a_token_that_can_not_be_renewed_is_replaced_ahead_of_its_expiry(vault: OwnVault) -> None:
    role_id, secret_id = vault.role("batch", token_ttl="6s", token_type="batch")
    logins = len(vault.audited(LOGIN))
    async with Runtime.open(vault.settings(vault_role_id=role_id, vault_secret_id=secret_id)) as runtime:
        await works(runtime)
        await asyncio.sleep(5)
        assert len(vault.audited(LOGIN)) == logins + 2
        await works(runtime)


async def test_the_token_is_revoked_when_the_service_ends(vault: OwnVault) -> None:
    revocations = len(vault.audited("auth/token/revoke-self"))
    async with Runtime.open(vault.settings()) as runtime:
        await works(runtime)
    assert len(vault.audited("auth/token/revoke-self")) == revocations + 1


# --- AppRole ----------------------------------------------------------------------------------------------------


async def test_a_wrong_secret_id_is_a_failed_login_that_shows_nothing_of_it(vault: OwnVault) -> None:
    wrong = canary()
    async with Runtime.open(vault.settings(vault_secret_id=wrong)) as runtime:
        with pytest.raises(VaultLoginFailed) as failed:
            await works(runtime)
    assert wrong not in f"{failed.value} {failed.value!r} {failed.value.__context__!r}"
    assert isinstance(failed.value, VaultDenied)  # an operator's matter, not worth a retry


async def test_a_rotated_secret_id_file_counts_without_a_restart(vault: OwnVault, tmp_path: Path) -> None:
    file = tmp_path / "secret-id"
    first, second = (vault.ask("POST", SECRET_ID, {}).json()["data"]["secret_id"] for _ in range(2))
    file.write_text(first + "\n")
    async with Runtime.open(vault.settings(vault_secret_id=None, vault_secret_id_file=file)) as runtime:
        await works(runtime)
        logins = len(vault.audited(LOGIN))
        file.write_text(second)
        assert vault.ask("POST", f"{SECRET_ID}/destroy", {"secret_id": first}).is_success
        revoke_all(vault)
        await asyncio.sleep(BELIEVED)
        await works(runtime)
        assert len(vault.audited(LOGIN)) == logins + 1


@pytest.mark.parametrize("content", [None, "", "not ascii: ß"])
async def test_a_secret_id_file_that_can_not_be_read_is_named(
    vault: OwnVault, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "secret-id"
    if content is not None:
        file.write_text(content)
    async with Runtime.open(vault.settings(vault_secret_id=None, vault_secret_id_file=file)) as runtime:
        with pytest.raises(ConfigurationError, match="CREDENTIALS_VAULT_SECRET_ID_FILE"):
            await works(runtime)


async def test_a_wrapped_secret_id_is_unwrapped_once_and_serves_later_logins(vault: OwnVault, tmp_path: Path) -> None:
    file = tmp_path / "wrapped"
    file.write_text(wrapped_secret_id(vault))
    settings = vault.settings(vault_secret_id=None, vault_secret_id_file=file, vault_secret_id_wrapped=True)
    unwrapped, logins = len(vault.audited("sys/wrapping/unwrap")), len(vault.audited(LOGIN))
    async with Runtime.open(settings) as runtime:
        await works(runtime)
        file.unlink()
        for again in (1, 2):
            revoke_all(vault)
            await asyncio.sleep(BELIEVED)
            await works(runtime)
            assert len(vault.audited(LOGIN)) == logins + 1 + again
        assert len(vault.audited("sys/wrapping/unwrap")) == unwrapped + 1
        # A new one in the file counts without a restart.
        file.write_text(wrapped_secret_id(vault))
        revoke_all(vault)
        await asyncio.sleep(BELIEVED)
        await works(runtime)
        assert len(vault.audited("sys/wrapping/unwrap")) == unwrapped + 2


async def wrapped_fails(vault: OwnVault, wrapping_token: str, **given: Any) -> str:
    """What is said of a wrapped secret id that is not to be used."""
    settings = vault.settings(vault_secret_id=wrapping_token, vault_secret_id_wrapped=True, **given)
    async with Runtime.open(settings) as runtime:
        with pytest.raises(VaultLoginFailed) as failed:
            await works(runtime)
    assert wrapping_token not in f"{failed.value!r}"
    return str(failed.value)


async def test_a_wrapped_secret_id_that_somebody_has_used_already_is_refused_and_said_so(vault: OwnVault) -> None:
    token = wrapped_secret_id(vault)
    assert vault.ask("POST", "sys/wrapping/unwrap", {"token": token}).is_success
    assert "somebody has used it already" in await wrapped_fails(vault, token)


async def test_a_wrapping_token_that_was_made_elsewhere_is_not_unwrapped(vault: OwnVault) -> None:
    forged = vault.ask("POST", "sys/wrapping/wrap", {"secret_id": vault.secret_id}, X_Vault_Wrap_TTL="60s")
    vault.role("other")
    tokens = [forged.json()["wrap_info"]["token"], wrapped_secret_id(vault, "auth/approle/role/other/secret-id")]
    unwrapped = len(vault.audited("sys/wrapping/unwrap"))
    for token in tokens:
        said = await wrapped_fails(vault, token, vault_secret_id_wrapped_path=SECRET_ID)
        assert "was not made by the AppRole's secret-id path" in said
    assert "was not made by" in await wrapped_fails(vault, tokens[0])  # nor where no path is set
    assert len(vault.audited("sys/wrapping/unwrap")) == unwrapped


# --- a token file, Kubernetes -----------------------------------------------------------------------------------


async def test_a_token_file_that_is_written_anew_is_picked_up(vault: OwnVault, tmp_path: Path) -> None:
    file, first = tmp_path / "token", vault.token()
    file.write_text(first)
    settings = vault.settings(vault_login=VaultLogin.TOKEN_FILE, vault_token_file=file)
    logins = len(vault.audited(LOGIN))
    async with Runtime.open(settings) as runtime:
        await works(runtime)
        second = vault.token()
        file.write_text(second)
        revoke(vault, first)  # as when the agent's login was replaced; the second in which a file counts isn't over
        await works(runtime)
    assert len(vault.audited(LOGIN)) == logins
    # It is the agent's, so it isn't revoked at the end.
    assert vault.ask("POST", "auth/token/lookup", {"token": second}).is_success


async def test_a_token_file_that_is_gone_or_whose_token_is_lost_is_an_error_that_says_so(
    vault: OwnVault, tmp_path: Path
) -> None:
    file, token = tmp_path / "token", vault.token()
    file.write_text(token)
    settings = vault.settings(vault_login=VaultLogin.TOKEN_FILE, vault_token_file=file)
    async with Runtime.open(settings) as runtime:
        await works(runtime)
        revoke(vault, token)
        with pytest.raises(VaultDenied):
            await works(runtime)
        file.unlink()
        with pytest.raises(ConfigurationError, match="CREDENTIALS_VAULT_TOKEN_FILE"):
            await works(runtime)
        file.write_text(vault.token())
        await works(runtime)


async def test_kubernetes_logs_in_with_the_service_accounts_token_and_reads_it_anew(
    vault: OwnVault, tmp_path: Path
) -> None:
    """Vault's own plugin is not in the Vault that this project builds: its documented login is a double's."""
    file, first, second = tmp_path / "jwt", canary("eyJ"), canary("eyJ")
    file.write_text(first)
    minted: list[str] = []

    def mint() -> str:
        minted.append(vault.token())
        return minted[-1]

    async with KubernetesLogin(vault.vault.address, mint, mount="k8s") as front:
        settings = vault.settings(
            vault_addr=front.url,
            vault_login=VaultLogin.KUBERNETES,
            vault_auth_mount="k8s",
            vault_kubernetes_role="orchestrator",
            vault_kubernetes_jwt_file=file,
        )
        front.accepted = {("orchestrator", first)}
        async with Runtime.open(settings) as runtime:
            await works(runtime)
            file.write_text(second)  # as the kubelet does
            front.accepted = {("orchestrator", second)}
            revoke(vault, minted[0])
            await asyncio.sleep(BELIEVED)
            await works(runtime)
            assert len(minted) == 2
            front.accepted = set()
            revoke(vault, minted[1])
            await asyncio.sleep(BELIEVED)
            with pytest.raises(VaultLoginFailed):
                await works(runtime)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"vault_login": VaultLogin.KUBERNETES}, "KUBERNETES_ROLE"),
        ({"vault_login": VaultLogin.TOKEN_FILE}, "TOKEN_FILE"),
        ({"vault_role_id": None}, "ROLE_ID"),
        ({"vault_role_id": ""}, "ROLE_ID"),
        ({"vault_secret_id_file": None, "vault_secret_id": None}, "SECRET_ID_FILE"),
    ],
)
async def test_what_a_login_lacks_is_named_before_anything_starts(
    given: dict[str, Any], named: str, vault: OwnVault
) -> None:
    with pytest.raises(ConfigurationError, match=f"CREDENTIALS_VAULT_{named}: is not set"):
        async with Runtime.open(vault.settings(**given)):
            pass


def test_failed_logins_do_not_lock_out_who_has_the_right_secret_id(stack: Stack) -> None:
    """A role id is no secret: else anybody who reaches Vault keeps the service out."""
    for _ in range(8):
        wrong = {"role_id": stack.role_id, "secret_id": str(uuid4())}
        assert stack.vault("POST", LOGIN, wrong).status_code == 400
    assert stack.runtime_token()
