"""Uses that last (a proxied call, say), cut off when their user or account is suspended, or the credential disabled.

Granting a use reads the suspensions in the statement that grants. What was granted before, and is still under way, is
looked at here, for all of the process in one statement.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from uuid import UUID

from service.correlation import start_alone
from service.errors import CredentialInactive, CredentialsError, DatabaseUnavailable, Suspended, again
from service.exception_location import exception_location
from service.modules.control_ports import ControlStore, Suspendable
from service.modules.records import Credential, OwnerAccess

_log = logging.getLogger(__name__)
_ASKED_AT_ENTRY = 60.0
"""For how many seconds after a suspension by this process each use is looked at before it begins: longer than anything
takes between its grant and its begin."""


@dataclass(eq=False, slots=True)
class _Use:
    """One block under way, and the task that is in it."""

    user_id: str
    credential_id: UUID
    account_id: UUID
    task: "asyncio.Task[object]"
    cancelling: int  # cancellations that the task had been asked for before
    entered: float
    reason: CredentialsError | None = None

    def cut(self, reason: CredentialsError) -> None:
        if self.reason is None:
            self.reason = again(reason)
            self.task.cancel()


class UsesUnderWay:
    """Watches blocks of code that use a credential.

    Guarantees: a block whose user or account is suspended, or whose credential is disabled, deleted or given to another
    user, is cancelled within `recheck_seconds` and the time that two statements take, at once where `cut` is called;
    so it is when Postgres could not be asked for `grace_seconds`, nor when it is asked once more (one `recheck_seconds`
    at most). A block that is short costs no statement.
    Does not: undo what the block has sent; stop a block that catches its cancellation and goes on.
    Belongs to one event loop.
    """

    def __init__(self, store: ControlStore, *, recheck_seconds: float, grace_seconds: float) -> None:
        self._store = store
        self._recheck = recheck_seconds
        self._grace = grace_seconds
        self._uses: set[_Use] = set()
        self._asked = float("-inf")  # when a look was begun that was answered
        self._cut = float("-inf")
        self._watching: asyncio.Task[None] | None = None

    @property
    def count(self) -> int:
        """How many are under way."""
        return len(self._uses)

    @asynccontextmanager
    async def watched(self, access: OwnerAccess, credential: Credential) -> AsyncIterator[None]:
        """The block, which is entered and left in one task, and is cancelled when it may not go on.

        What leaves it then is one of these, whatever the block made of its cancellation, unless the task was cancelled
        by somebody else too.

        Raises:
            Suspended, CredentialInactive, CredentialNotFound: since it was granted.
            TemporarilyUnavailable: Postgres could not be asked whether it may go on.
        """
        task = asyncio.current_task()
        if task is None:  # only outside of tasks, where nothing could be cancelled
            raise RuntimeError("a use is watched in a task")
        use = _Use(
            access.user_id, credential.id, credential.account_id, task, task.cancelling(), entered=time.monotonic()
        )
        self._uses.add(use)
        if self._watching is None or self._watching.done():
            self._watching = start_alone(self._watch(), "uses under way")
        try:
            if time.monotonic() - self._cut < _ASKED_AT_ENTRY:
                # It may have been granted before that suspension, which cut only what was here by then.
                await self._ask_about(use.user_id, use.credential_id)
            yield
        except BaseException as error:
            self._uses.discard(use)
            if use.reason is None or not isinstance(error, Exception | asyncio.CancelledError):
                raise
            if task.uncancel() > use.cancelling:
                raise
            # The error stays behind as the reason's context. Without its frames, which may hold a secret.
            error.__traceback__ = error.__context__ = error.__cause__ = None
            raise use.reason from None
        else:
            self._uses.discard(use)
            if use.reason is not None:
                await self._cancellation_over(use)
                raise use.reason

    def cut(self, whom: Suspendable) -> None:
        """Cuts at once what is under way here for a user or an account that this process has just suspended."""
        self._cut = time.monotonic()
        for use in list(self._uses):
            if use.user_id == whom.user_id or use.account_id == whom.account_id:
                use.cut(Suspended())

    async def aclose(self) -> None:
        """Looks no more. What is under way is not cut."""
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching

    async def check_late(self, access: OwnerAccess, credential: Credential, *, asked: float, disabled: bool) -> None:
        """Looks whether what was granted may still be used, if that was long ago: Vault may be slow, and a suspension
        has to count all the same. A use that began less than `recheck_seconds` after `asked` costs no statement.

        `asked`: on `time.monotonic`'s clock, before the grant was asked for. `disabled`: a disabled one will do.

        Raises:
            Suspended, CredentialInactive, CredentialNotFound; TemporarilyUnavailable: Postgres could not be asked.
        """
        if time.monotonic() - asked > self._recheck:
            await self._ask_about(access.user_id, credential.id, disabled=disabled)

    async def _ask_about(self, user_id: str, credential_id: UUID, *, disabled: bool = False) -> None:
        (denial,) = await self._store.cut_off([(user_id, credential_id)])
        if denial is not None and not (disabled and isinstance(denial, CredentialInactive)):
            raise denial

    @staticmethod
    async def _cancellation_over(use: _Use) -> None:
        """The block ended before its cancellation came, or swallowed it: none is left for what comes after."""
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        if use.task.uncancel() > use.cancelling:
            raise asyncio.CancelledError

    async def _watch(self) -> None:
        while self._uses:
            await asyncio.sleep(self._recheck)
            if not self._uses or await self._looked() or not self._overdue():
                continue
            # It may be this process that stood still, and not Postgres, which is asked once more before the cut.
            if self._uses and not await self._looked():
                for use in self._overdue():
                    use.cut(DatabaseUnavailable(retry_after=2))

    def _overdue(self) -> list[_Use]:
        """Those that nobody could ask about for the time of grace."""
        now = time.monotonic()
        return [use for use in self._uses if now - max(use.entered, self._asked) >= self._grace]

    async def _looked(self) -> bool:
        """Asks about all that is under way, and cuts what may not go on. False: there was no answer."""
        uses = list(self._uses)
        began = time.monotonic()
        # As long as none of them is due to be cut for want of an answer.
        patience = min(max(use.entered, self._asked) for use in uses) + self._grace - began
        asked = list({(use.user_id, use.credential_id) for use in uses})
        try:
            async with asyncio.timeout(max(patience, self._recheck)):
                denials = dict(zip(asked, await self._store.cut_off(asked), strict=True))
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody knows whether these may go on
            _log.warning("uses under way could not be looked at", extra={"exception": exception_location(error)})
            return False
        self._asked = began
        for use in uses:
            denial = denials[use.user_id, use.credential_id]
            if denial is not None:
                use.cut(denial)
        return True
