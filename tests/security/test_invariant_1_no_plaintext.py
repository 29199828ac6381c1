"""Invariant 1: no plaintext at rest or in passing. Random secrets go every way; then everything is searched."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from uuid import uuid4

import asyncpg
import pytest

from service.composition import Runtime, close_process_runtime, configure
from service.errors import CredentialsError
from service.memory.plaintext import Plaintext
from service.modules.credential_service import (
    get_decrypted_alpaca_credential,
    store_credential,
    validate_alpaca_credentials,
)
from service.modules.credential_writer import NewCredential
from tests.conftest import backend
from tests.doubles.alpaca import AlpacaDouble
from tests.evidence import (
    audit_file,
    every_log_line,
    files_below,
    forms,
    found,
    kv_dump,
    postgres_dump,
    shown_with_locals,
)
from tests.stored import Stored, opened, owner, some_user, store
from tests.support import Stack, canary
from tests.written import Connection


@dataclass
class Used:
    """The secrets that went through, and what was logged and raised meanwhile."""

    user: str
    secrets: list[str] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    shown: list[str] = field(default_factory=list)

    def secret(self, suffix: str = "") -> str:
        self.secrets.append(canary())
        return self.secrets[-1] + suffix

    async def failing(self, name: str, attempt: Awaitable[object]) -> None:
        """Keeps how the failure looks to whoever reports it with all locals."""
        try:
            await attempt
        except (CredentialsError, RuntimeError, asyncio.CancelledError) as error:
            self.errors[name] = shown_with_locals(error)
        else:
            pytest.fail(f"{name} did not fail")


@pytest.fixture(scope="module")
async def used(stack: Stack) -> Used:
    """Secrets sent every way: by the library and by the runtime, with success and with each kind of failure."""
    use = Used(some_user("canaries"))
    async with AlpacaDouble() as alpaca:
        settings = stack.settings(alpaca_base_url=alpaca.url)
        configure(settings)
        conn = await asyncpg.connect(stack.runtime_url)
        with every_log_line() as use.logged:
            async with Runtime.open(settings) as runtime:
                await _by_the_library(use, conn)
                await _by_the_runtime(use, runtime, alpaca)
                await _failing(use, stack, runtime, conn)
                use.shown.append(repr(runtime))
            await close_process_runtime()
        await conn.close()
        configure(None)
    return use


async def _by_the_library(use: Used, conn: Connection) -> None:
    made = await store_credential(conn, str(uuid4()), use.user, "alpaca", use.secret(), use.secret())
    async with get_decrypted_alpaca_credential(conn, made, use.user) as keys:
        use.shown += [repr(keys), repr(list(keys))]
    async with conn.transaction():
        await store_credential(conn, str(uuid4()), use.user, "polygon", use.secret(), "")
    assert await validate_alpaca_credentials(use.secret(), use.secret()) == (False, None)


async def _by_the_runtime(use: Used, runtime: Runtime, alpaca: AlpacaDouble) -> None:
    access = owner(use.user)
    with Plaintext.copy_of(use.secret()) as api, Plaintext.copy_of(use.secret()) as secret:
        new = NewCredential(uuid4(), "alpaca", api, secret)
        made = await runtime.writer.store(access, new, idempotency_key=str(uuid4()))
        use.shown += [repr(new), repr(made), f"{api} {secret}"]
    with Plaintext.copy_of(use.secret()) as secret:
        await runtime.writer.update(access, made.id, api_key=None, secret_key=secret, is_active=None, if_match=None)
    opening = await runtime.opener.open(access, made.id)
    with opening.pair:
        use.shown += [repr(opening), str(opening)]
    alpaca.open_account(*(await opened(runtime, made.id, use.user)))
    assert (await runtime.validator.validate_stored(access, made.id)).is_valid
    await runtime.writer.rollback(access, made.id, if_match=None)
    assert not (await runtime.validator.validate_stored(access, made.id)).is_valid


async def _failing(use: Used, stack: Stack, runtime: Runtime, conn: Connection) -> None:
    def by_library(api_key: str, secret_key: str, credential_type: str = "alpaca") -> Awaitable[str]:
        return store_credential(conn, str(uuid4()), use.user, credential_type, api_key, secret_key)

    await use.failing("a key that is not ASCII", by_library(use.secret("é"), use.secret()))
    await use.failing("a key that is too long", by_library(use.secret(), use.secret("x" * 600)))
    await use.failing("an unknown type", by_library(use.secret(), use.secret(), "binance"))
    await use.failing("a key with a newline, to validate", validate_alpaca_credentials(use.secret(), use.secret("\n")))
    for name, trouble in (
        ("Vault refuses to encrypt", {"transit_mount": "nowhere"}),
        ("Vault refuses the ciphertext", {"kv_mount": "nowhere"}),
        ("Vault cannot be reached", {"vault_addr": "http://127.0.0.1:1", "vault_retries": 0}),
        ("Postgres cannot be reached", {"database_url": "postgresql://u:p@127.0.0.1:1/d"}),
    ):
        await close_process_runtime()
        configure(stack.settings(**trouble))
        await use.failing(name, by_library(use.secret(), use.secret()))
    await close_process_runtime()
    configure(stack.settings(alpaca_base_url="http://127.0.0.1:1"))
    await use.failing("Alpaca cannot be reached", validate_alpaca_credentials(use.secret(), use.secret()))
    made = await by_library(use.secret(), use.secret())

    async def breaking(how: Callable[[str], Awaitable[object]]) -> None:
        async with get_decrypted_alpaca_credential(conn, made, use.user) as (api_key, secret_key):
            await how(f"Bearer {api_key}{secret_key}")

    async def fail(_header: str) -> None:
        raise RuntimeError

    async def cancel(_header: str) -> None:
        raise asyncio.CancelledError

    await use.failing("an exception in the block", breaking(fail))
    await use.failing("a cancellation in the block", breaking(cancel))
    async with Runtime.open(stack.settings(alpaca_base_url="http://127.0.0.1:1")) as unlucky:
        validating = unlucky.validator.validate_stored(owner(use.user), made)
        await use.failing("Alpaca cannot be asked about a stored credential", validating)
    damaged = await store(runtime, use.user)
    use.secrets += damaged.keys
    owning = await asyncpg.connect(stack.owner_url)
    await owning.execute("UPDATE credentials SET binding = sha256(binding) WHERE id = $1", damaged.id)
    await owning.close()
    await use.failing("a ciphertext that does not fit its row", opened(runtime, damaged.id, use.user))


async def test_none_in_postgres(used: Used, owner_conn: Connection) -> None:
    dump = await postgres_dump(owner_conn)
    assert used.user in dump
    assert found(used.secrets, {"Postgres": dump}) == []


def test_none_in_kv_which_holds_ciphertext_alone(used: Used, stack: Stack) -> None:
    contents = kv_dump(stack)
    assert found(used.secrets, {path: repr(each) for path, each in contents.items()}) == []
    of_credentials = {path: each for path, each in contents.items() if "/" in path}
    assert len(of_credentials) >= 3
    custom = {"credential_type", "transit_key", "transit_key_version", "secret_version"}
    for metadata, *_versions in of_credentials.values():
        assert set(metadata["custom_metadata"] or ()) <= custom


def test_none_in_vaults_audit_log(used: Used, stack: Stack) -> None:
    log = audit_file(stack).read_bytes()
    assert b"transit/encrypt/credentials-alpaca" in log
    assert found(used.secrets, {"audit log": log}) == []


@pytest.mark.skipif(backend()[0] != "local", reason="a container's files are not this user's to read")
async def test_none_in_any_file_of_either_server_nor_of_the_launcher(
    used: Used, stack: Stack, owner_conn: Connection
) -> None:
    await owner_conn.execute("CHECKPOINT")
    files = dict(files_below(stack.local.state_dir))
    assert any(used.user.encode() in content for content in files.values())
    assert found(used.secrets, files) == []


def test_none_in_what_any_logger_logs_at_debug(used: Used) -> None:
    assert len(used.logged) > 10
    assert found(used.secrets, {line[:60]: line for line in used.logged}) == []


def test_none_in_an_error_shown_with_every_frames_locals(used: Used) -> None:
    assert len(used.errors) == 13
    # The frames are the service's, but where the error is the caller's own and only passed through.
    assert {name for name, shown in used.errors.items() if "/service/" not in shown} <= {
        "an exception in the block",
        "a cancellation in the block",
    }
    assert found(used.secrets, used.errors) == []


def test_none_in_the_repr_of_what_a_program_holds(used: Used) -> None:
    assert found(used.secrets, {line[:60]: line for line in used.shown}) == []


async def test_the_search_finds_a_secret_that_is_there(stack: Stack, runtime: Runtime, owner_conn: Connection) -> None:
    """A search that finds nothing ever would make all of the above green."""
    stored: Stored = await store(runtime)
    in_row, in_kv, in_log, in_locals = (canary() for _ in range(4))
    await owner_conn.execute("UPDATE credentials SET user_id = $2 WHERE id = $1", stored.id, in_row)
    custom = {"custom_metadata": {"note": in_kv}}
    assert stack.vault("POST", f"credentials/metadata/{stored.path}", custom).is_success
    with every_log_line() as logged:
        async with Runtime.open(stack.settings(kv_mount=in_log)) as other:
            with pytest.raises(CredentialsError) as refused:
                await store(other)
    evidence = {
        "Postgres": await postgres_dump(owner_conn),
        "KV": repr(kv_dump(stack)),
        "log": "\n".join(logged),
        "locals": shown_with_locals(refused.value),
    }
    assert found([in_row], evidence) == ["Postgres"]
    assert found([in_kv], evidence) == ["KV"]
    assert found([in_log], evidence) == ["locals", "log"]
    assert found([in_locals], evidence) == []
    for form in forms(in_locals):
        assert found([in_locals], {"bytes": b"..." + form + b"..."}) == ["bytes"]
    stack.vault("DELETE", f"credentials/metadata/{stored.path}")
    await owner_conn.execute("DELETE FROM credentials WHERE id = $1", stored.id)
