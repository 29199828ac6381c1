"""The one place that builds and joins the parts. `app.py`, `cli.py` and the library's front door use it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Self

from service.authz.identity import TokenVerifier
from service.background import reconciling, sweeping, watching
from service.errors import ConfigurationError, DatabaseNotReady
from service.http_clients import issuer_client, provider_client, provider_session, vault_client
from service.measures import Measures
from service.memory.collector import Collector
from service.memory.hardening import started_by_exec
from service.modules.cipher_batches import CipherBatches
from service.modules.ciphertext_cache import CacheLimits, CiphertextCache
from service.modules.coalescer import BatchLimits, FairQueue
from service.modules.credential_opener import CredentialOpener
from service.modules.credential_reader import CredentialReader
from service.modules.credential_validator import CredentialValidator
from service.modules.credential_writer import CredentialWriter
from service.modules.event_verifier import EventVerifier
from service.modules.handoff import AT_ONCE, HandOffs
from service.modules.idempotency import Idempotency
from service.modules.importer import Importer
from service.modules.key_inventory import KeyInventory
from service.modules.key_jobs import KeyJobs
from service.modules.open_batches import OpenBatches
from service.modules.past_ids import PastIds
from service.modules.provider_pauses import ProviderPauses
from service.modules.proxy import Proxy, ProxyLimits
from service.modules.proxy_rules import ProxyRules
from service.modules.rate_limits import RateLimits
from service.modules.readiness import Readiness, canary
from service.modules.reconciliation import Reconciler
from service.modules.row_importer import RowImporter
from service.modules.sealed_write import SealedWriter
from service.modules.skew import SkewDetector, SkewWatch
from service.modules.skew_mending import SkewMender
from service.modules.state_watch import StateWatch
from service.modules.suspects import Suspects
from service.modules.suspensions import Suspensions
from service.modules.usage import UsageRecorder
from service.modules.uses_under_way import UsesUnderWay
from service.modules.vault_layout import VaultLayout
from service.once_per_loop import OncePerLoop
from service.postgres.access_log import PostgresAccessLog
from service.postgres.bulk_store import BulkCredentialStore
from service.postgres.control_store import PostgresControlStore
from service.postgres.credential_store import PostgresCredentialStore
from service.postgres.key_store import PostgresKeyStore
from service.postgres.migrate import LATEST_VERSION
from service.postgres.pool import Database
from service.postgres.queries import SQL
from service.postgres.reconciliation_store import PostgresReconciliationStore
from service.postgres.seal_store import PostgresSealStore
from service.postgres.skew_store import PostgresSkewStore
from service.postgres.state_store import PostgresStateStore
from service.providers.registry import Providers
from service.providers.upstream import AuthenticatedRequest, ProviderUpstream
from service.rotator import rotating
from service.runtime_metrics import RuntimeMetrics
from service.settings import Settings, load_provider_settings, load_settings
from service.vault.ciphertext_store import KvCiphertextStore
from service.vault.client import VaultClient
from service.vault.event_signer import KvSealAnchor, TransitEventSigner
from service.vault.login import VaultSession
from service.vault.transit import TransitCipher
from service.vault.transit_keys import TransitKeyRing, TransitKeys
from service.vault.wire import Wire
from service.vault.wire_client import WireVaultClient
from service.vault.wrapping import TransitWrapper

_VERIFYING_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """What a process holds open: Vault, Postgres, the providers, and the domain's parts joined over them."""

    settings: Settings
    reader: CredentialReader
    opener: CredentialOpener
    writer: CredentialWriter
    validator: CredentialValidator
    hand_offs: HandOffs
    proxy: Proxy
    rate_limits: RateLimits
    readiness: Readiness
    reconciler: Reconciler
    skew: SkewDetector
    skew_mender: SkewMender
    keys: KeyInventory
    key_jobs: KeyJobs
    suspensions: Suspensions
    importer: Importer
    suspects: Suspects
    under_way: UsesUnderWay
    """What is cut off when its user or account is suspended while it is under way."""
    identity: TokenVerifier | None
    """Checks callers' tokens; None where no issuer is set (a library needs none)."""
    collector: Collector | None = None
    """Frees garbage that may hold secrets; None in a program that embeds the library and was not started by `exec`."""
    metrics: RuntimeMetrics | None = None
    """What there is to tell a Prometheus server; a program that embeds the library may register it with its own."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: Settings, *, background: bool = False, collect: bool = False, bulk: bool = False
    ) -> AsyncIterator[Self]:
        """Opens everything, and closes it when the block ends. Nothing is asked of Vault or Postgres until needed.

        `background`: also reconciles, every `reconcile_interval` seconds, and, where it has the rotator's logins, does
        the jobs, as a service does and a library doesn't.
        `collect`: also collects garbage every `collect_seconds`, with what there is now set aside, which concerns all
        of the process; so does a program that `vault-credentials exec` started, without being asked.
        `bulk`: for a process that stores many: what goes to KV and into Postgres costs a fraction.

        Raises:
            ConfigurationError: the settings can't be used.
        """
        measures = Measures()
        async with AsyncExitStack() as stack:
            vault_http = await stack.enter_async_context(vault_client(settings))
            session = await stack.enter_async_context(VaultSession.open(vault_http, settings))
            wire = await stack.enter_async_context(Wire.open(settings))
            vault = VaultClient(
                vault_http,
                session,
                namespace=settings.vault_namespace,
                retries=settings.vault_retries,
                measures=measures,
            )
            database = await stack.enter_async_context(Database.open(settings, measures))
            providers = Providers.configured(await stack.enter_async_context(provider_client(settings)), settings)
            cipher = TransitCipher(vault, wire, settings.transit_mount)
            ciphertexts = KvCiphertextStore(vault, settings.kv_mount)
            layout = VaultLayout(
                settings.transit_mount, settings.transit_key_prefix, settings.kv_mount, frozenset(providers)
            )
            store = PostgresCredentialStore(database, settings)
            if bulk:
                over_wire = WireVaultClient(
                    vault_http, session, wire, namespace=settings.vault_namespace, retries=settings.vault_retries
                )
                ciphertexts = KvCiphertextStore(over_wire, settings.kv_mount)
                store = bulk_store = BulkCredentialStore(database, settings)
                stack.push_async_callback(bulk_store.aclose)
            log = PostgresAccessLog(database, providers.account_typed, uses=measures.uses)
            usage = UsageRecorder(store)
            stack.push_async_callback(usage.close)
            limits = BatchLimits(
                items=settings.batch_items, under_way=settings.batches_under_way, waiting=settings.max_waiting
            )
            ciphers = CipherBatches(
                cipher, limits, encryptions=measures.batches("encryptions"), decryptions=measures.batches("decryptions")
            )
            stack.push_async_callback(ciphers.aclose)
            cache = CiphertextCache(
                ciphertexts,
                CacheLimits(
                    size=settings.ciphertext_cache_bytes,
                    seconds=settings.ciphertext_cache_seconds,
                    reads_at_once=settings.kv_reads_at_once,
                    waiting=settings.max_waiting,
                ),
                meter=measures.batches("kv_reads"),
            )
            stack.push_async_callback(cache.aclose)
            batches = OpenBatches(log, cache, ciphers, layout, limits, meter=measures.batches("opens"))
            stack.push_async_callback(batches.aclose)
            reader = CredentialReader(store, log, limits)
            stack.push_async_callback(reader.aclose)
            past_ids = PastIds(store, limits)
            stack.push_async_callback(past_ids.aclose)
            kv_writes = FairQueue(
                at_once=settings.kv_writes_at_once,
                waiting=settings.max_waiting,
                name="kv-writes",
                meter=measures.batches("kv_writes"),
            )
            stack.push_async_callback(kv_writes.aclose)
            handing_off = FairQueue(
                at_once=AT_ONCE, waiting=settings.max_waiting, name="handoffs", meter=measures.batches("handoffs")
            )
            stack.push_async_callback(handing_off.aclose)
            wrapper = TransitWrapper(vault, wire, settings.transit_mount)
            intents = PostgresReconciliationStore(database, settings)
            sealed = SealedWriter(
                store, intents, ciphertexts, ciphers, kv_writes, intent_age_seconds=settings.intent_age_seconds
            )
            idempotency = Idempotency(store, cipher, transit_key=settings.idempotency_key_name)
            key_reader, skew_store = TransitKeys(vault, settings.transit_mount), PostgresSkewStore(database, settings)
            skew = SkewDetector(
                skew_store,
                ciphertexts,
                key_reader,
                PostgresSealStore(database),
                KvSealAnchor(vault, settings.kv_mount),
                layout,
            )
            reconciler = Reconciler(intents, ciphertexts, sealed, skew, layout)
            key_store = PostgresKeyStore(database)
            keys = KeyInventory(key_reader, key_store, layout)
            # Its own few connections: a queue of other people's statements must neither hold up a suspension, nor have
            # every call under way cut because nobody could ask about it.
            reserved = settings.model_copy(update={"database_pool_size": 2})
            controls = PostgresControlStore(await stack.enter_async_context(Database.open(reserved)))
            shared_controls = PostgresControlStore(database)
            suspects = Suspects(shared_controls)
            under_way = UsesUnderWay(
                controls, recheck_seconds=settings.recheck_seconds, grace_seconds=settings.recheck_grace_seconds
            )
            stack.push_async_callback(under_way.aclose)
            opener = CredentialOpener(log, batches, usage, under_way)
            provider_http = await stack.enter_async_context(provider_session(AuthenticatedRequest))
            proxy = Proxy(
                opener,
                providers,
                ProviderUpstream(provider_http, connect_seconds=settings.proxy_connect_seconds),
                ProxyRules(settings.proxy_allow),
                suspects,
                under_way,
                ProxyLimits(
                    at_once=settings.proxy_calls_at_once,
                    at_once_user=settings.proxy_calls_at_once_user,
                    at_once_caller=settings.proxy_calls_at_once_caller,
                    idle_seconds=settings.proxy_idle_seconds,
                    call_seconds=settings.proxy_call_seconds,
                ),
                measures,
            )
            identity = None
            if settings.oidc_issuer is not None:
                issuer_http = await stack.enter_async_context(issuer_client(settings))
                identity = TokenVerifier.from_settings(settings, issuer_http)
                if identity is not None:
                    stack.push_async_callback(identity.aclose)
            collector = Collector(settings.collect_seconds) if collect or started_by_exec() else None
            writer = CredentialWriter(store, log, ciphertexts, sealed, opener, idempotency, providers, layout)
            readiness = _readiness(settings, vault, database, cipher, layout, reconciler, SkewWatch(skew))
            state = StateWatch(readiness, PostgresStateStore(database), key_reader, key_store, layout)
            metrics = RuntimeMetrics(
                measures,
                session=session,
                cache=cache,
                cache_limit=settings.ciphertext_cache_bytes,
                database=database,
                state=state,
                providers=layout.credential_types,
            )
            runtime = cls(
                settings=settings,
                reader=reader,
                opener=opener,
                writer=writer,
                validator=CredentialValidator(store, opener, providers, suspects, ProviderPauses()),
                hand_offs=HandOffs(log, log, cache, wrapper, layout, usage, handing_off, under_way),
                proxy=proxy,
                rate_limits=RateLimits(settings),
                readiness=readiness,
                reconciler=reconciler,
                skew=skew,
                skew_mender=SkewMender(skew_store, ciphertexts, layout),
                keys=keys,
                key_jobs=KeyJobs(key_store, keys, wait_seconds=settings.job_wait_seconds),
                suspensions=Suspensions(controls, under_way, counting=shared_controls),
                importer=Importer(RowImporter(reader, writer, opener, log, past_ids)),
                suspects=suspects,
                under_way=under_way,
                identity=identity,
                collector=collector,
                metrics=metrics,
            )
            if background:
                await stack.enter_async_context(reconciling(reconciler, settings, metrics.note_reconciliation))
                if settings.metrics_seconds:
                    await stack.enter_async_context(watching(state, settings))
                if settings.disable_suspects:
                    await stack.enter_async_context(sweeping(suspects, settings))
                if (rotator := settings.as_rotator()) is not None:
                    await stack.enter_async_context(rotating(rotator))
            if collector is not None:
                await stack.enter_async_context(collector.running())  # last: all that is open now is set aside
            yield runtime


@asynccontextmanager
async def event_verifier(settings: Settings) -> AsyncIterator[EventVerifier]:
    """What verifies the events, for as long as the block lasts, with any logins that may read them and their seals.

    Raises:
        ConfigurationError: the settings can't be used.
    """
    # Counting what is in no seal reads an index from one end to the other.
    patient = settings.model_copy(update={"database_timeout": max(settings.database_timeout, _VERIFYING_SECONDS)})
    async with (
        vault_client(settings) as http,
        VaultSession.open(http, settings) as session,
        Database.open(patient) as database,
    ):
        vault = VaultClient(http, session, namespace=settings.vault_namespace, retries=settings.vault_retries)
        yield EventVerifier(
            PostgresSealStore(database, as_auditor=True),
            TransitEventSigner(vault, settings.transit_mount, settings.events_key_name),
            KvSealAnchor(vault, settings.kv_mount),
        )


@asynccontextmanager
async def key_ring(settings: Settings) -> AsyncIterator[TransitKeyRing]:
    """Vault's transit keys with the login that these settings have for the rotator, for as long as the block lasts.

    Raises:
        ConfigurationError: they have none, or it can't be used.
    """
    own = settings.as_rotator()
    if own is None:
        raise ConfigurationError("CREDENTIALS_ROTATOR_DATABASE_URL: this needs the rotator's logins, as a worker does")
    async with vault_client(own) as http, VaultSession.open(http, own) as session, Wire.open(own) as wire:
        vault = VaultClient(http, session, namespace=own.vault_namespace, retries=own.vault_retries)
        yield TransitKeyRing(vault, wire, own.transit_mount)


def _readiness(
    settings: Settings,
    vault: VaultClient,
    database: Database,
    cipher: TransitCipher,
    layout: VaultLayout,
    reconciler: Reconciler,
    skew: SkewWatch,
) -> Readiness:
    async def postgres() -> None:
        row = await database.fetchrow(SQL["migration_version"])
        # What a newer version's migrations add is in nobody's way: replicas are replaced one after the other.
        if row[0] < LATEST_VERSION:
            raise DatabaseNotReady

    return Readiness(
        {
            "vault": vault.health,
            "transit": canary(cipher, layout.transit_key("alpaca")),
            "postgres": postgres,
            "installation": reconciler.ensure_same_installation,
        },
        advisers={"skew": skew.advice},
        timeout=settings.vault_timeout + settings.database_timeout,
    )


# --- what the library's front door uses: one runtime for each event loop, from the environment or from `configure` ----

_configured: Settings | None = None


def configure(settings: Settings | None) -> None:
    """Settings for what the library's functions open from now on; None: the environment's again."""
    global _configured  # noqa: PLW0603 - this module is where a process's state lives
    _configured = settings


@asynccontextmanager
async def _provider_set() -> AsyncIterator[Providers]:
    settings = _configured or load_provider_settings()
    async with provider_client(settings) as client:
        yield Providers.configured(client, settings)


_runtimes = OncePerLoop(lambda: Runtime.open(_configured or load_settings()))
_provider_sets = OncePerLoop(_provider_set)


async def process_runtime() -> Runtime:
    """The runtime of this event loop, opened at first use.

    Raises:
        ConfigurationError: the environment lacks a setting, or one can't be used.
    """
    return await _runtimes.get()


async def process_providers() -> Providers:
    """The providers alone, of this event loop: what validating given keys needs. Raises as `process_runtime`."""
    return await _provider_sets.get()


async def close_process_runtime() -> None:
    """Closes what the library's functions opened in this event loop: connections, and the Vault token is revoked."""
    await _runtimes.close()
    await _provider_sets.close()
