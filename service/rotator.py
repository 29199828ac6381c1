"""The composition root's other half: what whoever does the jobs holds open, a worker or the service beside its own.

It has logins of its own, to Vault and to Postgres: they can rewrap, and cannot decrypt.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Self
from uuid import UUID

from service.correlation import start_alone
from service.errors import CredentialsError, DatabaseNotReady, InstallationMismatch
from service.http_clients import vault_client
from service.modules.event_sealer import EventSealer
from service.modules.job_runner import JobRunner
from service.modules.key_rotation import KeyRotation
from service.modules.rewrap_passes import RewrapPasses
from service.modules.rewrapper import Rewrapper
from service.modules.skew import SkewDetector
from service.modules.vault_layout import VaultLayout
from service.postgres.pool import Database
from service.postgres.rotation_store import PostgresRotationStore
from service.postgres.seal_store import PostgresSealStore
from service.postgres.skew_store import PostgresSkewStore
from service.providers.registry import credential_types
from service.settings import Settings, VaultLogin
from service.vault.ciphertext_store import KvCiphertextStore
from service.vault.client import VaultClient
from service.vault.event_signer import KvSealAnchor, TransitEventSigner
from service.vault.login import VaultSession
from service.vault.transit_keys import TransitKeyRing
from service.vault.wire import Wire
from service.vault.wire_client import WireVaultClient

_log = logging.getLogger(__name__)
_CONNECTIONS = 7
"""To Postgres, at least: each batch holds one for its rows while it needs another for its intents; sealing has one."""
_GRACE_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotator:
    """What does the jobs, and seals the events meanwhile."""

    runner: JobRunner
    sealer: EventSealer
    seal_seconds: float
    stopping: asyncio.Event

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator[Self]:
        """Opens everything, and closes it when the block ends. Nothing is asked of Vault or Postgres until needed.

        `settings` are those of the rotator: `Settings.as_rotator`'s.

        Raises:
            ConfigurationError: the settings can't be used.
        """
        pool = max(settings.database_pool_size, _CONNECTIONS)
        async with AsyncExitStack() as stack:
            vault_http = await stack.enter_async_context(vault_client(settings))
            session = await stack.enter_async_context(VaultSession.open(vault_http, settings))
            wire = await stack.enter_async_context(Wire.open(settings))
            vault = WireVaultClient(
                vault_http, session, wire, namespace=settings.vault_namespace, retries=settings.vault_retries
            )
            database = await stack.enter_async_context(
                Database.open(settings.model_copy(update={"database_pool_size": pool}))
            )
            store = PostgresRotationStore(database, settings)
            keys = TransitKeyRing(vault, wire, settings.transit_mount)
            ciphertexts = KvCiphertextStore(vault, settings.kv_mount)
            layout = VaultLayout(
                settings.transit_mount, settings.transit_key_prefix, settings.kv_mount, credential_types(settings)
            )
            seals, anchor = PostgresSealStore(database), KvSealAnchor(vault, settings.kv_mount)
            skew = SkewDetector(PostgresSkewStore(database, settings), ciphertexts, keys, seals, anchor, layout)
            stopping = asyncio.Event()
            rewrapper = Rewrapper(
                store,
                keys,
                ciphertexts,
                layout,
                at_once=settings.rewrap_writes_at_once,
                intent_age_seconds=settings.intent_age_seconds,
            )
            rewraps = RewrapPasses(
                store,
                keys,
                rewrapper,
                stopping,
                batch=settings.rewrap_batch,
                per_second=settings.rewrap_per_second,
            )
            yield cls(
                runner=JobRunner(
                    store,
                    ciphertexts,
                    KeyRotation(store, keys, skew),
                    rewraps,
                    stopping,
                    poll_seconds=settings.job_poll_seconds,
                ),
                sealer=EventSealer(
                    seals,
                    TransitEventSigner(vault, settings.transit_mount, settings.events_key_name),
                    anchor,
                    ciphertexts.installation_id,
                ),
                seal_seconds=settings.seal_seconds,
                stopping=stopping,
            )

    def stop(self) -> None:
        """Has `run` end when what is under way is done: a batch, a rotation."""
        self.stopping.set()

    async def run(self) -> None:
        """Does jobs and seals events until `stop` is called."""
        async with self.sealer.running(self.seal_seconds):
            await self.runner.run()


@asynccontextmanager
async def rotating(settings: Settings) -> AsyncIterator[None]:
    """Does jobs in the background for as long as the block lasts; what is under way at its end is finished first.

    `settings` and what is raised are those of `Rotator.open`.
    """
    async with Rotator.open(settings) as rotator:
        task = start_alone(rotator.run(), "rotator")
        try:
            yield
        finally:
            rotator.stop()
            done, _ = await asyncio.wait({task}, timeout=_GRACE_SECONDS)
            if not done:
                _log.warning("a job was cut short at the end; it is gone on with later")
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def logs_in_once(settings: Settings) -> bool:
    """Whether it is a wrapping token that the login to Vault needs, which works once."""
    return settings.vault_login is VaultLogin.APPROLE and settings.vault_secret_id_wrapped


async def login_problems(settings: Settings) -> list[str]:
    """Logs in as the rotator and out again; what is wrong with the logins, in public words. Changes nothing.

    Both are asked for the installation's id, as a worker asks when it starts. Vault isn't where its secret id is
    wrapped: what unwraps it uses it up, and it is the worker's. `settings` are those of `Rotator.open`.

    Raises:
        ConfigurationError: the settings can't be used.
    """
    seconds = settings.vault_timeout + settings.database_timeout
    async with (
        vault_client(settings) as http,
        VaultSession.open(http, settings) as session,
        Database.open(settings) as database,
    ):
        vault = VaultClient(http, session, namespace=settings.vault_namespace, retries=settings.vault_retries)
        asked = {"Postgres": PostgresRotationStore(database, settings).installation_id()}
        if not logs_in_once(settings):
            asked["Vault"] = KvCiphertextStore(vault, settings.kv_mount).installation_id()
        answers = await asyncio.gather(*(_answer(each, seconds) for each in asked.values()))
    problems = [f"{name}: {each}" for name, each in zip(asked, answers, strict=True) if isinstance(each, str)]
    if not problems and (None in answers or len(set(answers)) > 1):
        problems.append(str(InstallationMismatch()))
    return problems


async def _answer(asked: Awaitable[UUID | None], seconds: float) -> UUID | str | None:
    """The id, or why there is none."""
    try:
        async with asyncio.timeout(seconds):
            return await asked
    except DatabaseNotReady:
        return "The login is refused, or its role lacks what `vault-credentials migrate` gives it."
    except CredentialsError as error:
        return str(error)
    except TimeoutError:
        return "No answer in time."
