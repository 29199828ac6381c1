"""The client's metadata, changes and validations against a real service: typed answers, its errors as exceptions."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from pydantic import SecretStr

from service.client import CredentialsClient, KnownCredential
from service.errors import (
    AuthenticationFailed,
    CredentialNotFound,
    IdempotencyMismatch,
    InvalidFields,
    InvalidInput,
    NothingToRollBack,
    PermissionDenied,
    PreconditionFailed,
    ServiceUnavailable,
)
from service.localstack.state_dir import free_port
from tests.doubles.alpaca import AlpacaStandIn
from tests.handed import client_for, stored_by
from tests.support import Stack, canary, serving
from tests.written import Somebody, pair_of_keys


@pytest.fixture
async def client(server: str, stack: Stack) -> AsyncIterator[CredentialsClient]:
    async with client_for(server, stack) as made:
        yield made


@pytest.fixture
def somebody() -> Somebody:
    return Somebody()


async def keys_of(client: CredentialsClient, known: KnownCredential, somebody: Somebody) -> tuple[str, str]:
    async with client.credential(known.id, user_id=somebody.user_id) as (api_key, secret_key):
        return "".join(api_key), "".join(secret_key)


async def test_what_is_stored_is_told_without_its_keys(client: CredentialsClient, somebody: Somebody) -> None:
    made, keys = await stored_by(client, somebody)
    assert (made.account_id, made.user_id) == (str(somebody.account_id), somebody.user_id)
    assert (made.credential_type, made.is_active, made.validation_state) == ("alpaca", True, "unvalidated")
    assert made.etag == '"1"'
    assert await client.get(made.id, user_id=somebody.user_id) == made
    assert not [key for key in keys if key in repr(made)]


async def test_keys_with_every_character_that_json_escapes_come_back_as_they_were(
    client: CredentialsClient, somebody: Somebody
) -> None:
    keys = ('P"K\\' + canary(), '\\\\""</' + canary())
    made, _ = await stored_by(client, somebody, keys)
    assert await keys_of(client, made, somebody) == keys


async def test_the_same_idempotency_key_stores_once(client: CredentialsClient, somebody: Somebody) -> None:
    keys = [SecretStr(key) for key in pair_of_keys()]

    async def store(account: object = somebody.account_id) -> KnownCredential:
        return await client.store(str(account), "alpaca", *keys, user_id=somebody.user_id, idempotency_key="k-1")

    assert (await store()).id == (await store()).id
    with pytest.raises(IdempotencyMismatch):
        await store(uuid4())


async def test_an_update_makes_a_new_version_and_a_rollback_brings_the_old_keys_back(
    client: CredentialsClient, somebody: Somebody
) -> None:
    made, before = await stored_by(client, somebody)
    with pytest.raises(NothingToRollBack):
        await client.rollback(made.id, user_id=somebody.user_id)
    after = pair_of_keys()
    updated = await client.update(
        made.id,
        api_key=SecretStr(after[0]),
        secret_key=SecretStr(after[1]),
        if_match=made.etag,
        user_id=somebody.user_id,
    )
    assert (updated.secret_version, updated.can_roll_back) == (2, True)
    assert await keys_of(client, updated, somebody) == after
    with pytest.raises(PreconditionFailed):
        await client.update(made.id, is_active=False, if_match=made.etag, user_id=somebody.user_id)
    back = await client.rollback(made.id, if_match=updated.etag, user_id=somebody.user_id)
    assert await keys_of(client, back, somebody) == before


async def test_what_is_deleted_is_gone(client: CredentialsClient, somebody: Somebody) -> None:
    made, _ = await stored_by(client, somebody)
    with pytest.raises(PreconditionFailed):
        await client.delete(made.id, if_match='"7"', user_id=somebody.user_id)
    await client.delete(made.id, if_match=made.etag, user_id=somebody.user_id)
    with pytest.raises(CredentialNotFound):
        await client.get(made.id, user_id=somebody.user_id)


async def test_a_list_goes_on_over_its_pages(client: CredentialsClient, somebody: Somebody) -> None:
    made = [(await stored_by(client, somebody))[0].id for _ in range(53)]  # a page has 50
    listed = [each.id async for each in client.list(user_id=somebody.user_id)]
    assert listed == made[::-1]
    await client.update(made[0], is_active=False, user_id=somebody.user_id)
    inactive = [each async for each in client.list(user_id=somebody.user_id, is_active=False)]
    assert [(each.id, each.is_active, each.etag) for each in inactive] == [(made[0], False, None)]
    elsewhere = client.list(user_id=somebody.user_id, account_id=uuid4(), credential_type="alpaca")
    assert [each async for each in elsewhere] == []


async def test_the_events_tell_what_was_done(client: CredentialsClient, somebody: Somebody) -> None:
    made, _ = await stored_by(client, somebody)
    await keys_of(client, made, somebody)
    with pytest.raises(CredentialNotFound):
        await keys_of(client, made, Somebody())
    told = [(each.action, each.outcome) async for each in client.events(made.id, user_id=somebody.user_id)]
    assert told == [("handoff", "granted"), ("store", "done")]
    assert [each.action async for each in client.events(user_id=somebody.user_id)] == ["handoff", "store"]


async def test_keys_are_validated_given_and_stored(stack: Stack, somebody: Somebody) -> None:
    keys = pair_of_keys()
    async with AlpacaStandIn() as alpaca:
        alpaca.open_account(*keys)
        with serving(stack.settings(alpaca_base_url=alpaca.url)) as url:
            async with client_for(url, stack) as client:
                given = await client.validate_keys(*map(SecretStr, keys), user_id=somebody.user_id)
                assert (given.is_valid, given.account_type) == (True, "paper")
                made, _ = await stored_by(client, somebody, keys)
                stored = await client.validate(made.id, user_id=somebody.user_id)
                assert (stored.is_valid, stored.account_type) == (True, "paper")
                alpaca.close_account(*keys)
                refused = await client.validate(made.id, user_id=somebody.user_id)
                assert (refused.is_valid, refused.account_type) == (False, None)


async def test_a_user_uses_it_for_what_is_its_own(server: str, stack: Stack, somebody: Somebody) -> None:
    async with client_for(server, stack, "user", somebody.user_id) as own:
        secrets = [SecretStr(key) for key in pair_of_keys()]
        made = await own.store(somebody.account_id, "alpaca", *secrets)
        assert [each.id async for each in own.list()] == [made.id]
        with pytest.raises(PermissionDenied):
            await own.get(made.id, user_id=somebody.user_id)


async def test_the_services_errors_name_the_field_and_never_the_value(
    client: CredentialsClient, somebody: Somebody
) -> None:
    secret = canary()
    with pytest.raises(InvalidInput) as raised:
        await client.store("no uuid", "alpaca", SecretStr(secret), SecretStr(secret), user_id=somebody.user_id)
    assert raised.value.field == "account_id"
    assert raised.value.__notes__[0].startswith("request id: ")
    with pytest.raises(InvalidInput) as raised:
        await client.store(uuid4(), "bank", SecretStr(secret), SecretStr(secret), user_id=somebody.user_id)
    assert not isinstance(raised.value, InvalidFields)
    assert raised.value.field == "credential_type"
    with pytest.raises(InvalidInput) as raised:
        await client.get(str(uuid4()))
    assert raised.value.field == "X-User-Id"


async def test_who_is_nobody_is_told_so_and_where_nothing_answers_that_too(server: str, stack: Stack) -> None:
    async with client_for(server, stack, token=lambda: "no.jwt.atall") as client:
        with pytest.raises(AuthenticationFailed):
            await client.get(uuid4(), user_id="alice")
    async with client_for(f"http://127.0.0.1:{free_port()}", stack) as client:
        with pytest.raises(ServiceUnavailable):
            await client.get(uuid4(), user_id="alice")
