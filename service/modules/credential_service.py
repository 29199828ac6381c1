"""The library's front door: the functions an embedding program calls.

Names, signatures and this module's path are a public interface. What they need (Vault, settings, a pool) is opened
from the environment at first use and lives in `service.composition`, once for each event loop, whichever name this
module was imported under; `composition.configure` passes settings explicitly, `composition.close_process_runtime`
closes it (so does the end of `asyncio.run`).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal
from uuid import UUID

from service.modules.credential_validator import validate_keys
from service.modules.credential_writer import NewCredential
from service.modules.ports import CallerConnection
from service.modules.rate_limits import Use
from service.modules.records import OwnerAccess
from service.modules.secret_pair import copied

if TYPE_CHECKING:
    from service.composition import Runtime

__all__ = [
    "get_decrypted_alpaca_credential",
    "get_decrypted_credential",
    "store_credential",
    "validate_alpaca_credentials",
]


@asynccontextmanager
async def get_decrypted_alpaca_credential(
    conn: CallerConnection | None, credential_id: str | UUID, user_id: str
) -> AsyncIterator[tuple[str, str]]:
    """Opens an Alpaca credential for the length of a block: yields `(api_key, secret_key)`.

    `conn` is an asyncpg connection to the service's database. Not in a transaction, it is used to authorise and record;
    in one, the service's own pool is, so that a rollback loses no record (a row that is not committed yet is then not
    found). So it is where `conn` is None, or is busy with another statement. Over the pool, opens at the same time
    share one statement, too; the requests to Vault they share in any case.

    The two are strings whose `repr` is masked. When the block ends, however it ends, they are wiped in place: every
    reference to them reads as NULs. Copies that the block makes (`str.encode`, an f-string) are the block's.

    Raises:
        ValueError: the credential is not this user's (or isn't there), not active, or not of type alpaca.
        service.errors.CredentialUnreadable: its parts in Vault and Postgres don't fit together.
        service.errors.RateLimited: the settings set a limit on opens, and it is reached; `retry_after` has the seconds
            until it isn't. Not a ValueError: nothing is wrong with the credential.
        service.errors.TemporarilyUnavailable: Vault or Postgres does not answer; `Busy`: too many opens wait.
    """
    runtime, access = await _to_open(user_id)
    async with runtime.opener.reveal(access, credential_id, credential_type="alpaca", conn=conn) as keys:
        yield keys


@asynccontextmanager
async def get_decrypted_credential(
    conn: CallerConnection | None, credential_id: str | UUID, user_id: str
) -> AsyncIterator[tuple[str, str]]:
    """As `get_decrypted_alpaca_credential`, for every type; Polygon's secret key is an empty string."""
    runtime, access = await _to_open(user_id)
    async with runtime.opener.reveal(access, credential_id, conn=conn) as keys:
        yield keys


async def store_credential(
    conn: CallerConnection,
    account_id: str | UUID,
    user_id: str,
    credential_type: str,
    api_key: str,
    secret_key: str,
) -> str:
    """Encrypts and stores a credential; returns its id.

    If `conn` is in a transaction, the credential is there when that commits and has never been when it rolls back.

    Raises:
        ValueError: `account_id` is no UUID, the type is unknown, or a key is not what a key can be. Names the field.
        service.errors.TemporarilyUnavailable: Vault or Postgres does not answer.
    """
    try:
        api, secret = copied("api_key", api_key), copied("secret_key", secret_key)
    finally:
        del api_key, secret_key  # a traceback with locals is to show the masked ones alone
    with api, secret:
        runtime, access = await _as_owner(user_id)
        new = NewCredential(account_id, credential_type, api, secret)
        return str((await runtime.writer.store(access, new, conn=conn)).id)


async def validate_alpaca_credentials(api_key: str, secret_key: str) -> tuple[bool, Literal["paper", "live"] | None]:
    """Asks Alpaca whether it accepts the keys: `(True, "paper" | "live")`, or `(False, None)`.

    Asks `ALPACA_BASE_URL` (default: the paper API); where that is one of Alpaca's two hosts and refuses, the other one
    too. Needs neither Vault nor Postgres.

    Raises:
        ValueError: a key is not what a key can be.
        service.errors.ProviderUnavailable: Alpaca could not be asked. That says nothing about the keys.
    """
    from service.composition import process_providers

    try:
        api, secret = copied("api_key", api_key), copied("secret_key", secret_key)
    finally:
        del api_key, secret_key  # a traceback with locals is to show the masked ones alone
    with api, secret:
        providers = await process_providers()
        verdict = await validate_keys(providers, "alpaca", api, secret)
    return verdict.is_valid, verdict.account_type


async def _to_open(user_id: str) -> tuple["Runtime", OwnerAccess]:
    runtime, access = await _as_owner(user_id)
    runtime.rate_limits.take(Use.OPEN, access)
    return runtime, access


async def _as_owner(user_id: str) -> tuple["Runtime", OwnerAccess]:
    # Lazily, and here alone: the composition root sees every module, so a module must not see it at import.
    from service.composition import process_runtime

    runtime = await process_runtime()
    # Behind its prefix no embedding program reads as a caller over REST (`user:alice`).
    settings, actor = runtime.settings, runtime.settings.actor
    return runtime, OwnerAccess(
        user_id=user_id,
        actor=actor if actor == "library" else f"library:{actor}",
        account_type="paper" if settings.refuse_live or "library" in settings.refuse_live_roles else None,
    )
