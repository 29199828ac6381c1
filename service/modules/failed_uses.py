"""Uses that were granted and came to nothing: a second event beside the grant's."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from service.errors import (
    AccountTypeUnknown,
    CiphertextGone,
    CiphertextRejected,
    CredentialInactive,
    CredentialNotFound,
    CredentialsError,
    CredentialUnreadable,
    InvalidInput,
    KeyVersionRetired,
    NothingToRollBack,
    ProviderOutcomeUnknown,
    ProxyRefused,
    Suspended,
    TemporarilyUnavailable,
)
from service.modules.ports import AccessLog
from service.modules.records import Action, Credential, Event, Outcome, OwnerAccess

_log = logging.getLogger(__name__)

REASONS: tuple[tuple[type[Exception], str], ...] = (
    (CiphertextGone, "ciphertext_gone"),
    (KeyVersionRetired, "key_version_retired"),
    (CiphertextRejected, "ciphertext_rejected"),
    (CredentialUnreadable, "reference_mismatch"),
    (NothingToRollBack, "no_previous_secret"),
    (InvalidInput, "invalid_input"),
    (ProxyRefused, "proxy_refused"),
    (AccountTypeUnknown, "account_type_unknown"),
    (Suspended, "suspended"),
    (CredentialInactive, "inactive"),
    (CredentialNotFound, "not_found"),
    (ProviderOutcomeUnknown, "outcome_unknown"),
    (TemporarilyUnavailable, "unavailable"),
)
"""What an event says of an error: the first that it is one of, else `OTHERWISE`."""

OTHERWISE = "vault_refused"

_TOLD = 5
"""In the log, of those that could not be recorded together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedUse:
    """A use that was granted, and what became of it."""

    access: OwnerAccess
    credential: Credential
    action: Action
    error: CredentialsError
    batch_id: UUID | None = None
    """The grant's, where Vault was asked in a batch of that id."""


async def record_failed(log: AccessLog, failures: Sequence[FailedUse]) -> None:
    """Records them together.

    Raises nothing where that can't be done: the grants are on record, and the callers' own errors matter more than
    that these came to nothing.
    """
    made = [_event(each) for each in failures]
    try:
        await log.record(made)
    except CredentialsError as unrecorded:
        for event in made[:_TOLD]:
            _log.warning(
                "a failed use was not recorded",
                extra={
                    "error": type(unrecorded).__name__,
                    "credential": str(event.credential_id),
                    "action": event.action.value,
                    "reason": event.reason,
                    "batch": str(event.batch_id),
                    "of": len(made),
                },
            )


def _event(failed: FailedUse) -> Event:
    credential = failed.credential
    return Event(
        access=failed.access,
        credential_id=credential.id,
        account_id=credential.account_id,
        owner=credential.user_id,
        action=failed.action,
        outcome=Outcome.FAILED,
        reason=next((reason for kind, reason in REASONS if isinstance(failed.error, kind)), OTHERWISE),
        transit_key=credential.transit_key,
        transit_key_version=credential.transit_key_version,
        batch_id=failed.batch_id,
    )
