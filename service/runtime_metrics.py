"""A runtime's numbers as Prometheus' metric families: what each is called, and what it means.

No label has a value that a caller sent, nor one of a set without bounds: no user, account, credential, request, path or
message. Each is a word of the code's, a credential type or its key, of which the settings know all, a route's template
or a status.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.registry import Collector

from service.measures import Labels, Measures
from service.metric_families import counted, counter, gauge, histogram
from service.modules.ciphertext_cache import CiphertextCache
from service.modules.failed_uses import OTHERWISE, REASONS
from service.modules.handoff import UNWRAP_FAILURES
from service.modules.proxy import OUTCOMES
from service.modules.reconciliation import ReconciliationReport
from service.modules.records import Action
from service.modules.state_watch import KeyState, StateWatch
from service.postgres.access_log import COUNTED_DENIALS
from service.postgres.pool import Database
from service.vault.client import FAILURES, OPERATIONS
from service.vault.login import VaultSession


@dataclass(slots=True)
class Reconciled:
    """What the last reconciliation in the background came to."""

    report: ReconciliationReport | None = None
    removed: int = 0
    succeeded_at: float | None = None  # Unix time


class RuntimeMetrics(Collector):
    """Reads the parts of one runtime when it is asked to. Shows no value that anybody sent."""

    def __init__(
        self,
        measures: Measures,
        *,
        session: VaultSession,
        cache: CiphertextCache,
        cache_limit: int,
        database: Database,
        state: StateWatch,
        providers: Iterable[str],
    ) -> None:
        """`providers`: the credential types."""
        self._measures = measures
        self._session = session
        self._cache = cache
        self._cache_limit = cache_limit
        self._database = database
        self.state = state
        self.reconciled = Reconciled()
        _begin_at_zero(measures, providers)

    def note_reconciliation(self, report: ReconciliationReport | None) -> None:
        """Takes in what one in the background came to; None: it came to no end."""
        self._measures.reconciliations.add(("failed" if report is None else "done",))
        if report is not None:
            self.reconciled.report = report
            self.reconciled.removed += report.removed
            self.reconciled.succeeded_at = time.time()

    def collect(self) -> Iterator[Metric]:
        """The present values."""
        yield from self._work()
        yield from self._parts()
        yield from self._reconciliation()
        yield from self._state()

    def _work(self) -> Iterator[Metric]:
        kept = self._measures
        yield counter(
            "credentials_uses",
            "Openings, hand-offs, proxied calls and validations that were asked for, by what became of them. One that"
            " was granted and failed is counted as both; `unrecorded`: Postgres could not be asked; `not_found`: or"
            " another's, which the events tell apart.",
            ("action", "outcome", "reason"),
            kept.uses,
        )
        yield histogram("credentials_batch_items", "Calls in one batch.", ("batch",), kept.batch_items)
        yield histogram(
            "credentials_batch_wait_seconds",
            "How long the first call of a batch had waited.",
            ("batch",),
            kept.batch_waits,
        )
        yield histogram(
            "credentials_vault_request_seconds", "One request to Vault, each try.", ("operation",), kept.vault
        )
        yield counter(
            "credentials_vault_failures",
            "Requests that Vault did not answer, or refused.",
            ("operation", "error"),
            kept.vault_failures,
        )
        yield histogram(
            "credentials_postgres_seconds",
            "One statement, committed, the wait for a connection included. Transactions of several are not in it.",
            ("statement",),
            kept.postgres,
        )
        yield counted(
            "credentials_postgres_failures",
            "Uses of a connection to Postgres that failed.",
            (),
            [((), kept.postgres_failures.counts.get((), 0))],
        )
        yield counter(
            "credentials_proxy_calls",
            "Proxied calls, by provider and what became of them: the provider's status, or why there was no whole"
            " answer. `none`: it was over before the credential's type was known.",
            ("provider", "outcome"),
            kept.proxy_calls,
        )
        yield histogram(
            "credentials_provider_answer_seconds",
            "From sending a proxied call to the beginning of the provider's answer.",
            ("provider",),
            kept.providers,
        )

    def _parts(self) -> Iterator[Metric]:
        age, left, lease = self._session.lifetime or (None, None, None)
        yield gauge("credentials_vault_token_age_seconds", "Since the login to Vault.", [((), age)])
        yield gauge("credentials_vault_token_left_seconds", "Until the Vault token ends.", [((), left)])
        yield gauge("credentials_vault_token_lease_seconds", "How long the token is renewed for.", [((), lease)])
        cache = self._cache
        yield counted("credentials_ciphertext_cache_hits", "Ciphertexts had from memory.", (), [((), cache.hits)])
        yield counted("credentials_ciphertext_cache_misses", "Ciphertexts read from KV.", (), [((), cache.misses)])
        yield gauge("credentials_ciphertext_cache_bytes", "Memory that ciphertexts are kept in.", [((), cache.size)])
        yield gauge("credentials_ciphertext_cache_limit_bytes", "The most of it.", [((), self._cache_limit)])
        yield gauge(
            "credentials_postgres_connections",
            "Connections to Postgres, by what they do.",
            [((state,), count) for state, count in self._database.connections.items()],
            ("state",),
        )

    def _reconciliation(self) -> Iterator[Metric]:
        done = self.reconciled
        yield counter(
            "credentials_reconciliations",
            "Reconciliations in the background.",
            ("outcome",),
            self._measures.reconciliations,
        )
        yield counted("credentials_reconciled", "Leftovers of crashes that were removed.", (), [((), done.removed)])
        yield gauge(
            "credentials_reconcile_left",
            "Leftovers that the last reconciliation could not settle.",
            [((), done.report.failed if done.report else None)],
        )
        yield gauge(
            "credentials_reconciled_timestamp_seconds", "When one last came to its end.", [((), done.succeeded_at)]
        )

    def _state(self) -> Iterator[Metric]:
        state = self.state.last
        yield gauge(
            "credentials_state_timestamp_seconds", "When what follows was last looked at.", [((), state.at or None)]
        )
        yield gauge(
            "credentials_check_ok",
            "Whether what /readyz tries works; `skew`: whether Vault and Postgres are of the same moment.",
            [((check.name,), float(check.ok)) for check in state.checks],
            ("check",),
        )
        counts = state.counts
        yield gauge(
            "credentials_suspensions",
            "Who is suspended.",
            [] if counts is None else [(("user",), counts.suspended_users), (("account",), counts.suspended_accounts)],
            ("of",),
        )
        yield gauge(
            "credentials_suspects", "Credentials that are suspect.", [((), None if counts is None else counts.suspects)]
        )
        yield gauge(
            "credentials_write_intents",
            "Writes under way, or left over: `due` are those past their age.",
            []
            if counts is None
            else [(("young",), counts.intents - counts.intents_due), (("due",), counts.intents_due)],
            ("age",),
        )
        yield gauge(
            "credentials_event_seal_timestamp_seconds",
            "When events were last sealed.",
            [((), None if counts is None else counts.sealed_at)],
        )
        yield from _key_families(state.keys)


def _begin_at_zero(measures: Measures, providers: Iterable[str]) -> None:
    """Has each counter that an alert looks at be there before it counts: Prometheus sees no growth in one that comes
    into being as 1, and what happens once would be missed.
    """
    actions = (Action.OPEN, Action.RESEAL, Action.VALIDATE, Action.HAND_OFF, Action.PROXY, Action.TRADE)
    failures = [reason for _, reason in REASONS] + ["unrecorded", OTHERWISE]
    for action in actions:
        measures.uses.add((action, "granted", ""), 0)
        for reason in COUNTED_DENIALS:
            measures.uses.add((action, "denied", reason), 0)
        for reason in failures + (sorted(UNWRAP_FAILURES) if action is Action.HAND_OFF else []):
            measures.uses.add((action, "failed", reason), 0)
    for operation in (
        "login",
        "encrypt",
        "decrypt",
        "wrap",
        "kv_read",
        "kv_write",
        "other",
        *OPERATIONS - {"data", "metadata"},
    ):
        for error in FAILURES.values():
            measures.vault_failures.add((operation, error), 0)
    for provider in providers:
        for outcome in ("2xx", "3xx", "4xx", "5xx", *(word for _, word in OUTCOMES)):
            measures.proxy_calls.add((provider, outcome), 0)
    for outcome in ("done", "failed"):
        measures.reconciliations.add((outcome,), 0)


def _key_families(keys: Sequence[KeyState]) -> Iterator[Metric]:
    for name, text, attribute in (
        ("latest_version", "A transit key's newest version.", "latest_version"),
        ("min_decryption_version", "The oldest version that Vault decrypts.", "min_decryption_version"),
        ("credentials_below_latest", "Credentials under older versions.", "below_latest"),
        ("previous_secrets_below_latest", "Kept previous secrets under older versions.", "previous_below_latest"),
        ("latest_version_timestamp_seconds", "When the newest version was made.", "latest_made_at"),
    ):
        values: list[tuple[Labels, float | None]] = [((key.name,), getattr(key, attribute)) for key in keys]
        yield gauge(f"credentials_key_{name}", text, values, ("key",))
