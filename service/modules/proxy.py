"""Calls to a provider with a credential that the caller never sees: authorised and recorded, sent once, passed back."""

import asyncio
import logging
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from service import tracing
from service.errors import (
    AccountTypeUnknown,
    Busy,
    CallerGone,
    CredentialDenied,
    CredentialsError,
    DatabaseUnavailable,
    ProviderOutcomeUnknown,
    ProviderRefused,
    ProviderUnavailable,
    ProxyRefused,
    Suspended,
    TemporarilyUnavailable,
)
from service.exception_location import exception_location
from service.measures import Measures
from service.memory.plaintext import Plaintext
from service.modules.call_clock import CallClock
from service.modules.credential_opener import CredentialOpener
from service.modules.ports import Provider, ProviderRegistry
from service.modules.proxy_ports import ProxyCall, ProxyCaller, Upstream, UpstreamAnswer, UpstreamCall
from service.modules.proxy_rules import ProxyRules
from service.modules.records import Action, Credential, OwnerAccess
from service.modules.secret_pair import copy_view, split_pair
from service.modules.suspects import Suspects
from service.modules.uses_under_way import UsesUnderWay

_log = logging.getLogger(__name__)
_RECORDING_SECONDS = 3.0

OUTCOMES: tuple[tuple[type[Exception], str], ...] = (
    (Busy, "busy"),
    (CallerGone, "caller_gone"),
    (ProviderOutcomeUnknown, "outcome_unknown"),
    (ProviderRefused, "provider_refused"),
    (ProviderUnavailable, "provider_unavailable"),
    (ProxyRefused, "not_allowed"),
    (AccountTypeUnknown, "not_allowed"),
    (Suspended, "suspended"),
    (CredentialDenied, "denied"),
    (TemporarilyUnavailable, "unavailable"),
)
"""What a call that brought no whole answer is counted as; the first that fits."""


@dataclass(slots=True)
class _Counted:
    """What a call is counted as, as far as is known."""

    provider: str = "none"
    outcome: str = "ended_early"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyLimits:
    """Bounds of the calls under way."""

    at_once: int
    at_once_user: int
    at_once_caller: int
    idle_seconds: float
    call_seconds: float


class Proxy:
    """Passes calls on to providers.

    Guarantees: a call is authorised and its event committed, its path is in the provider's table and among what the
    role may call, all before the credential is decrypted; the pair is wiped as soon as the request's head is written,
    before any of the answer is passed on; the provider is asked once; an answer is ended for the caller only if it came
    whole; a call ends when its caller hangs up, when its clocks run out, and when whose it is is suspended, which is a
    second event, as it is when its process stops.
    Does not: retry; look into bodies; undo what a call that was cut off had sent.
    """

    def __init__(
        self,
        opener: CredentialOpener,
        providers: ProviderRegistry,
        upstream: Upstream,
        rules: ProxyRules,
        suspects: Suspects,
        uses: UsesUnderWay,
        limits: ProxyLimits,
        measures: Measures | None = None,
    ) -> None:
        self._opener = opener
        self._providers = providers
        self._upstream = upstream
        self._rules = rules
        self._suspects = suspects
        self._uses = uses
        self._limits = limits
        self._measures = measures or Measures()
        self._under_way = 0
        self._of: Counter[tuple[str, str]] = Counter()

    async def forward(self, access: OwnerAccess, call: ProxyCall, caller: ProxyCaller) -> None:
        """Passes one call on, and its answer back, errors of the provider's own included.

        An error that is raised after `caller.begin` means that the answer is not whole: the caller must not take it
        for one that is.

        Raises:
            CredentialDenied, CredentialUnreadable, TemporarilyUnavailable: as `CredentialOpener.reveal`; not sent.
            ProxyRefused, AccountTypeUnknown, InvalidInput: this may not be called; not sent.
            Busy: too many calls are under way, here, for this user or by this caller; not sent.
            ProviderUnavailable: not sent; or a read's answer didn't come. ProviderRefused: a read was answered with a
                redirect, which is not followed.
            ProviderOutcomeUnknown: it was sent, is no read, and was cut off, or no answer's head came, or a redirect.
            Suspended, CredentialInactive, CredentialNotFound, DatabaseUnavailable: it was cut off; it was not sent, or
                is a read.
            CallerGone: the caller hung up.
        """
        counted = _Counted()
        try:
            await self._admitted(access, call, caller, counted)
        except Exception as error:
            counted.outcome = next((word for kind, word in OUTCOMES if isinstance(error, kind)), "failed")
            raise
        finally:
            self._measures.proxy_calls.add((counted.provider, counted.outcome))

    async def _admitted(self, access: OwnerAccess, call: ProxyCall, caller: ProxyCaller, counted: _Counted) -> None:
        limits = self._limits
        whose = {("user", access.user_id): limits.at_once_user, ("caller", access.actor): limits.at_once_caller}
        if self._under_way >= limits.at_once or any(self._of[each] >= most for each, most in whose.items()):
            raise Busy
        self._under_way += 1
        self._of.update(whose.keys())
        try:
            await self._forward(access, call, caller, counted)
        finally:
            self._under_way -= 1
            for each in whose:
                self._of[each] -= 1
                if not self._of[each]:
                    del self._of[each]

    async def _forward(self, access: OwnerAccess, call: ProxyCall, caller: ProxyCaller, counted: _Counted) -> None:
        base_url = ""

        def accept(credential: Credential) -> None:
            nonlocal base_url
            # What the row says has not been checked by now, and no text of a row's may become a label.
            if credential.credential_type in self._providers:
                counted.provider = credential.credential_type
            self._rules.check(access.actor.partition(":")[0], call.method, call.path)
            provider = self._providers[credential.credential_type]
            try:
                base_url = provider.base_url(call.method, call.path, call.query, credential.account_type)
            except CredentialsError:
                raise
            except Exception as error:  # noqa: BLE001 - anybody's code, whose mistake would fail all of the batch
                _log.error("a provider's module failed", extra={"exception": exception_location(error)})
                raise ProxyRefused from None

        action = Action.PROXY if call.is_read else Action.TRADE
        # `accept` is called once the grant is committed, and before anything is decrypted.
        opened = await self._opener.open(access, call.credential_id, action=action, accept=accept)
        credential = opened.credential
        provider = self._providers[credential.credential_type]
        outgoing = UpstreamCall(
            method=call.method,
            url=f"{base_url}{call.path}?{call.query}" if call.query else f"{base_url}{call.path}",
            headers=call.headers,
            body=caller.chunks() if caller.has_body else None,
        )
        with _Key(opened.pair, provider) as key:
            began = time.perf_counter()
            clock = CallClock(idle=self._limits.idle_seconds, whole=self._limits.call_seconds)
            try:
                with tracing.span("provider") as span:
                    span.note("credentials.provider", credential.credential_type)
                    async with (
                        self._uses.watched(access, credential),
                        clock,
                        caller.watched(clock),
                        self._upstream.send(outgoing, key.headers) as answer,
                    ):
                        span.note("http.response.status_code", answer.status)
                        self._measures.providers.note((credential.credential_type,), time.perf_counter() - began)
                        _check_status(call, answer.status)
                        await self._note(access, credential, provider, answer.status, call.path)
                        await _passed_back(answer, caller, clock)
            except (TimeoutError, ProviderUnavailable, CredentialDenied, DatabaseUnavailable) as error:
                may_be_done = key.given and not call.is_read
                if isinstance(error, CredentialDenied):
                    await self._opener.record_failure(access, credential, action, error)
                elif isinstance(error, DatabaseUnavailable):
                    # Nobody could say whether it is still allowed; what records may be there all the same.
                    await self._record_cut(
                        access, credential, action, ProviderOutcomeUnknown() if may_be_done else error
                    )
                failure = _failure(error, hung_up=clock.hung_up, may_be_done=may_be_done)
            except asyncio.CancelledError:
                # By whoever stops this process, who waits for it a little.
                may_be_done = key.given and not call.is_read
                await self._record_cut(
                    access, credential, action, ProviderOutcomeUnknown() if may_be_done else ProviderUnavailable()
                )
                raise
            else:
                counted.outcome = f"{answer.status // 100}xx"
                return
        # Out here, so that what is raised drags neither the exchange's frames nor its error along.
        try:
            raise failure
        finally:
            del failure

    async def _record_cut(
        self, access: OwnerAccess, credential: Credential, action: Action, error: CredentialsError
    ) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_RECORDING_SECONDS):
                await self._opener.record_failure(access, credential, action, error)

    async def _note(
        self, access: OwnerAccess, credential: Credential, provider: Provider, status: int, path: str
    ) -> None:
        """Notes what the answer says of the keys. That this fails must not spoil the answer to a call that was done."""
        try:
            if provider.refuses_keys(status):
                await self._suspects.refused(access, credential)
            elif provider.accepts_keys(status, path):
                await self._suspects.accepted(access, credential)
        except Exception as error:  # noqa: BLE001 - a provider's module may be anybody's
            _log.warning(
                "what a provider said of keys was not noted",
                extra={"error": type(error).__name__, "exception": exception_location(error)},
            )


class _Key:
    """The opened pair until it is needed, and for no longer."""

    def __init__(self, pair: Plaintext, provider: Provider) -> None:
        self._pair = pair
        self._provider = provider
        self.given = False
        """Whether the headers were asked for; if not, nothing can have been sent."""

    def headers(self) -> dict[str, str]:
        """The headers that authenticate, once; the pair is wiped by then. Raises InvalidInput: it can't be sent."""
        try:
            with (
                split_pair(self._pair) as (api_view, secret_view),
                copy_view(api_view) as api_key,
                copy_view(secret_view) as secret_key,
            ):
                made = self._provider.headers(api_key, secret_key)
        finally:
            self._pair.wipe()
        self.given = True
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pair.wipe()


def _check_status(call: ProxyCall, status: int) -> None:
    """Lets no redirect through, for the caller to follow it with headers of its own, and no status that HTTP hasn't."""
    if not 200 <= status < 600 or (300 <= status < 400 and status != 304):
        # Of a 303 it is even likely that it was done.
        raise ProviderRefused if call.is_read else ProviderOutcomeUnknown


async def _passed_back(answer: UpstreamAnswer, caller: ProxyCaller, clock: CallClock) -> None:
    await caller.begin(answer.status, answer.headers)
    async for chunk in answer.chunks():
        clock.moved()
        await caller.write(chunk)
        clock.moved()
    await caller.end()


def _failure(error: Exception, *, hung_up: bool, may_be_done: bool) -> CredentialsError:
    if hung_up:
        return CallerGone()
    if may_be_done:
        return ProviderOutcomeUnknown()
    return error if isinstance(error, CredentialsError) else ProviderUnavailable("The provider did not answer in time.")
