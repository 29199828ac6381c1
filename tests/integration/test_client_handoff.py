"""A credential's keys by hand-off, on a real service and a real Vault: for the length of a block, or an error that says
what has happened, and of which the service keeps a record."""

import asyncio
import base64
import logging
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.client import CredentialsClient, VaultOptions, hand_offs
from service.errors import (
    AccountTypeRefused,
    CredentialInactive,
    CredentialNotFound,
    HandOffAlreadyUsed,
    HandOffExpired,
    HandOffMisdirected,
    HandOffUnreadable,
    InvalidInput,
    PermissionDenied,
    VaultUnavailable,
)
from service.localstack.state_dir import free_port
from service.memory.revealed import RevealedSecret
from tests.handed import Change, changing, client_for, failures, stored_by, unwrapped_by_a_thief, vault_says
from tests.shown import shown_by_reporters, shown_of_stopped_frames
from tests.support import Stack
from tests.written import Connection, Somebody


@pytest.fixture
async def client(server: str, stack: Stack) -> AsyncIterator[CredentialsClient]:
    async with client_for(server, stack) as made:
        yield made


@pytest.fixture
def somebody() -> Somebody:
    return Somebody()


def on_the_way(monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    """From now on somebody gets to every hand-off before the client does."""
    monkeypatch.setattr(hand_offs, "handed_off", changing(change))


async def opened(client: CredentialsClient, credential_id: str, somebody: Somebody, **options: Any) -> tuple[str, str]:
    async with client.credential(credential_id, user_id=somebody.user_id, **options) as (api_key, secret_key):
        return "".join(api_key), "".join(secret_key)


async def test_the_block_gets_the_keys_and_afterwards_every_reference_reads_as_nuls(
    client: CredentialsClient, somebody: Somebody
) -> None:
    made, keys = await stored_by(client, somebody)
    async with client.credential(made.id, user_id=somebody.user_id) as got:
        assert got == keys
        assert all(type(each) is RevealedSecret for each in got)
        assert not [key for key in keys if key in repr(got)]
    assert [set(each) for each in got] == [{"\0"}, {"\0"}]


async def test_they_are_wiped_however_the_block_ends(client: CredentialsClient, somebody: Somebody) -> None:
    made, _ = await stored_by(client, somebody)
    kept: list[tuple[str, str]] = []
    inside = asyncio.Event()

    async def fails() -> None:
        async with client.credential(made.id, user_id=somebody.user_id) as keys:
            kept.append(keys)
            raise LookupError

    async def is_cancelled() -> None:
        async with client.credential(made.id, user_id=somebody.user_id) as keys:
            kept.append(keys)
            inside.set()
            await asyncio.Event().wait()

    with pytest.raises(LookupError):
        await fails()
    task = asyncio.create_task(is_cancelled())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [set("".join(keys)) for keys in kept] == [{"\0"}, {"\0"}]


async def test_many_at_once_get_each_their_own(client: CredentialsClient) -> None:
    people = [Somebody() for _ in range(20)]
    made = [await stored_by(client, each) for each in people]
    got = await asyncio.gather(*(opened(client, known.id, each) for (known, _), each in zip(made, people, strict=True)))
    assert list(got) == [keys for _, keys in made]


async def test_a_token_that_somebody_used_first_is_an_alarm_on_record(
    client: CredentialsClient, somebody: Somebody, stack: Stack, owner_conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, keys = await stored_by(client, somebody)
    stolen: list[dict[str, Any]] = []
    on_the_way(monkeypatch, lambda told: stolen.append(unwrapped_by_a_thief(stack, told["wrapping_token"])))
    with pytest.raises(HandOffAlreadyUsed):
        await opened(client, made.id, somebody)
    assert base64.b64decode(stolen[0]["plaintext"]).decode() == "\n".join(keys)
    assert await failures(owner_conn, made.id) == [("failed", "already_used")]


async def test_a_token_that_somebody_used_and_wrapped_again_is_not_unwrapped(
    client: CredentialsClient, somebody: Somebody, stack: Stack, owner_conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = await stored_by(client, somebody)
    given: list[str] = []

    def read_and_wrap_again(told: dict[str, Any]) -> None:
        data = unwrapped_by_a_thief(stack, told["wrapping_token"])
        told["wrapping_token"] = vault_says(stack, "sys/wrapping/wrap", data, wrap="30s").json()["wrap_info"]["token"]
        given.append(told["wrapping_token"])

    on_the_way(monkeypatch, read_and_wrap_again)
    with pytest.raises(HandOffMisdirected):
        await opened(client, made.id, somebody)
    assert await failures(owner_conn, made.id) == [("failed", "wrong_creation_path")]
    assert unwrapped_by_a_thief(stack, given[0])  # so the client has not


async def test_a_token_that_lasts_longer_than_was_asked_for_is_not_unwrapped(
    client: CredentialsClient, somebody: Somebody, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = await stored_by(client, somebody)
    on_the_way(monkeypatch, lambda told: told.update(wrapping_token=another_pair(stack, b"a\nb", wrap="31s")))
    with pytest.raises(HandOffMisdirected):
        await opened(client, made.id, somebody, ttl=30)
    assert await opened(client, made.id, somebody, ttl=31) == ("a", "b")


async def test_a_hand_off_that_was_not_unwrapped_in_time_has_expired(
    client: CredentialsClient, somebody: Somebody, stack: Stack, owner_conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = await stored_by(client, somebody)

    def wait_for_its_end(told: dict[str, Any]) -> None:
        while vault_says(stack, "sys/wrapping/lookup", {"token": told["wrapping_token"]}).is_success:
            time.sleep(0.05)

    on_the_way(monkeypatch, wait_for_its_end)
    with pytest.raises(HandOffExpired):
        await opened(client, made.id, somebody, ttl=1)
    assert await failures(owner_conn, made.id) == [("failed", "expired")]


def another_pair(stack: Stack, plaintext: bytes, *, wrap: str = "30s") -> str:
    """A token for something else under the key that is used for pairs."""
    context = base64.b64encode(secrets.token_bytes(32)).decode()
    body = {"plaintext": base64.b64encode(plaintext).decode(), "context": context}
    ciphertext = vault_says(stack, "transit/encrypt/credentials-alpaca", body).json()["data"]["ciphertext"]
    body = {"ciphertext": ciphertext, "context": context}
    return str(vault_says(stack, "transit/decrypt/credentials-alpaca", body, wrap=wrap).json()["wrap_info"]["token"])


async def test_what_is_no_pair_is_unreadable(
    client: CredentialsClient, somebody: Somebody, stack: Stack, owner_conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = await stored_by(client, somebody)
    on_the_way(monkeypatch, lambda told: told.update(wrapping_token=another_pair(stack, b"no pair")))
    with pytest.raises(HandOffUnreadable):
        await opened(client, made.id, somebody)
    assert await failures(owner_conn, made.id) == [("failed", "unreadable")]


async def test_a_vault_that_does_not_answer_is_on_record_too(
    server: str, stack: Stack, somebody: Somebody, owner_conn: Connection
) -> None:
    vault = VaultOptions(addr=f"http://127.0.0.1:{free_port()}")
    async with client_for(server, stack, vault=vault) as client:
        made, _ = await stored_by(client, somebody)
        with pytest.raises(VaultUnavailable):
            await opened(client, made.id, somebody)
    assert await failures(owner_conn, made.id) == [("failed", "vault_unavailable")]


async def test_that_the_service_could_not_be_told_hides_nothing(
    server: str, stack: Stack, somebody: Somebody, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = [stack.mint("orchestrator", "bot")] * 2

    def runs_out() -> str:
        return tokens.pop()

    async with client_for(server, stack, token=runs_out) as client:
        made, _ = await stored_by(client, somebody)
        on_the_way(monkeypatch, lambda told: told.update(creation_path="sys/wrapping/wrap"))
        with pytest.raises(HandOffMisdirected) as raised:
            await opened(client, made.id, somebody)
    assert raised.value.__notes__ == ["The service could not be told of this."]
    assert raised.value.__context__ is None


async def test_pinned_to_vaults_own_address_it_works_and_to_another_it_does_not(
    server: str, stack: Stack, somebody: Somebody
) -> None:
    async with client_for(server, stack) as client:
        made, keys = await stored_by(client, somebody)
    for options in (
        VaultOptions(addr=stack.vault_addr, namespace=""),
        VaultOptions(allowed_addrs=["https://vault.test", f"{stack.vault_addr}/"]),
    ):
        async with client_for(server, stack, vault=options) as client:
            assert await opened(client, made.id, somebody) == keys
    for options in (VaultOptions(allowed_addrs=["https://vault.test"]), VaultOptions(transit_mount="other")):
        async with client_for(server, stack, vault=options) as client:
            with pytest.raises(HandOffMisdirected):
                await opened(client, made.id, somebody)


async def test_who_may_not_have_it_is_refused_as_the_service_says(
    client: CredentialsClient, server: str, stack: Stack, somebody: Somebody
) -> None:
    made, _ = await stored_by(client, somebody)
    with pytest.raises(CredentialNotFound):
        await opened(client, made.id, Somebody())
    with pytest.raises(AccountTypeRefused):
        await opened(client, made.id, somebody, require_account_type="paper")
    for ttl in (0, 301, 1.5, True, "30"):
        with pytest.raises(InvalidInput) as raised:
            await opened(client, made.id, somebody, ttl=ttl)
        assert raised.value.field == "ttl"
    async with client_for(server, stack, "user", somebody.user_id) as own:
        with pytest.raises(PermissionDenied):
            await opened(own, made.id, somebody)
    await client.update(made.id, is_active=False, user_id=somebody.user_id)
    with pytest.raises(CredentialInactive):
        await opened(client, made.id, somebody)


async def test_neither_keys_nor_tokens_are_in_logs_errors_or_frames(
    client: CredentialsClient,
    stack: Stack,
    somebody: Somebody,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    made, keys = await stored_by(client, somebody)
    wrapping: list[str] = []
    on_the_way(monkeypatch, lambda told: wrapping.append(told["wrapping_token"]))
    async with client.credential(made.id, user_id=somebody.user_id) as got:
        assert got == keys
        stopped = shown_of_stopped_frames()
    on_the_way(monkeypatch, lambda told: wrapping.append(told["wrapping_token"]) or told.update(vault_addr="ftp://x"))  # type: ignore[func-returns-value]
    with pytest.raises(HandOffMisdirected) as raised:
        await opened(client, made.id, somebody)
    evidence = {**stopped, **shown_by_reporters(raised.value), "log": caplog.text}
    client_token = client._exchange._token()
    assert isinstance(client_token, str)
    assert len(wrapping) == 2
    assert caplog.text
    for secret in (*keys, *wrapping, client_token):
        assert not [where for where, text in evidence.items() if secret in text]
