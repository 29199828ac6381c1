"""The service's problem documents (RFC 9457) as the exceptions that the service itself raised.

`type` alone decides; the document's texts are for people and are not taken over, but for `errors`, which says in the
service's fixed words what was wrong with which field. A type that isn't in `TABLE` is a `ServiceError`.
"""

import json
import re
from contextlib import suppress
from typing import Any
from uuid import UUID

from service import errors
from service.errors import CredentialsError, InvalidFields, InvalidInput, ServiceError, ServiceUnavailable

TYPE_PREFIX = "urn:vault-credentials:error:"

TABLE: dict[str, type[CredentialsError]] = {
    # what was sent
    "invalid-input": errors.InvalidInput,
    "body-too-large": errors.BodyTooLarge,
    "body-too-slow": errors.BodyTooSlow,
    "wrong-content-type": errors.WrongContentType,
    "authentication-required": errors.TokenMissing,
    "authentication-failed": errors.AuthenticationFailed,
    "permission-denied": errors.PermissionDenied,
    # what it is about
    "credential-not-found": errors.CredentialNotFound,
    "credential-inactive": errors.CredentialInactive,
    "wrong-credential-type": errors.WrongCredentialType,
    "suspended": errors.Suspended,
    "account-type-refused": errors.AccountTypeRefused,
    "account-type-unknown": errors.AccountTypeUnknown,
    "proxy-refused": errors.ProxyRefused,
    "rate-limited": errors.RateLimited,
    "not-suspended": errors.SuspensionNotFound,
    "concurrent-update": errors.ConcurrentUpdate,
    "nothing-to-roll-back": errors.NothingToRollBack,
    "idempotent-result-gone": errors.IdempotentResultGone,
    "credential-unreadable": errors.CredentialUnreadable,
    "key-not-found": errors.KeyNotFound,
    "job-not-found": errors.JobNotFound,
    "job-under-way": errors.JobUnderWay,
    "versions-still-needed": errors.VersionsStillNeeded,
    "job-failed": errors.JobFailed,
    "precondition-failed": errors.PreconditionFailed,
    "precondition-required": errors.PreconditionRequired,
    "idempotency-mismatch": errors.IdempotencyMismatch,
    # what the service needs
    "write-interrupted": errors.WriteInterrupted,
    "issuer-unavailable": errors.IssuerUnavailable,
    "temporarily-unavailable": errors.TemporarilyUnavailable,
    "busy": errors.Busy,
    "vault-unavailable": errors.VaultUnavailable,
    "vault-sealed": errors.VaultSealed,
    "vault-standby": errors.VaultStandby,
    "vault-throttled": errors.VaultThrottled,
    "database-unavailable": errors.DatabaseUnavailable,
    "database-not-ready": errors.DatabaseNotReady,
    "provider-unavailable": errors.ProviderUnavailable,
    "provider-throttled": errors.ProviderThrottled,
    "provider-refused": errors.ProviderRefused,
    "provider-outcome-unknown": errors.ProviderOutcomeUnknown,
    # what an operator has to mend
    "vault-denied": errors.VaultDenied,
    "vault-refused": errors.VaultRefused,
    "installation-mismatch": errors.InstallationMismatch,
    "misconfigured": errors.ConfigurationError,
}
"""Each problem's name, and its exception. `internal`, and what only a wrong address gets, is `ServiceError`."""

_NAME = re.compile(r"[a-z0-9-]{1,64}")
_INSTANCE = re.compile(r"[A-Za-z0-9._-]{1,128}")
_MAX_PROBLEMS = 100
_MAX_TEXT = 300


def error_of(status: int, body: bytes, retry_after: float | None) -> CredentialsError:
    """What an answer that is no success means, ready to be raised.

    `retry_after`: the seconds of its Retry-After. They are the exception's `retry_after`, where there are any; the
    request's id, as in the service's log, is a note of it (`__notes__`).
    """
    document = _document(body)
    name = str(document.get("type", ""))
    name = name.removeprefix(TYPE_PREFIX) if name.startswith(TYPE_PREFIX) else ""
    error = _made(TABLE.get(name), status, name, document)
    if retry_after is not None:
        vars(error)["retry_after"] = retry_after  # also of classes that by themselves know none
    instance = document.get("instance")
    if isinstance(instance, str) and _INSTANCE.fullmatch(instance):
        error.add_note(f"request id: {instance}")
    return error


def _made(kind: type[CredentialsError] | None, status: int, name: str, document: dict[str, Any]) -> CredentialsError:
    if kind is None:
        if not name and status in (429, 502, 503, 504):  # a load balancer's, for a service that isn't there
            return ServiceUnavailable()
        return ServiceError(status=status, name=name if _NAME.fullmatch(name) else "")
    if issubclass(kind, InvalidInput):
        problems = _problems(document)
        return InvalidInput(*problems[0]) if len(problems) == 1 else InvalidFields(problems)
    error = kind()
    if isinstance(error, errors.VersionsStillNeeded):
        count = document.get("count")
        error.count = count if isinstance(count, int) else 0
        error.credential_ids = tuple(_uuids(document.get("credentials")))
    elif isinstance(error, errors.JobFailed):
        error.job_id = next(iter(_uuids([document.get("job")])), None)
    return error


def _document(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _problems(document: dict[str, Any]) -> list[tuple[str, str]]:
    found = document.get("errors")
    told = [
        (_plain(each.get("field")), _plain(each.get("problem")))
        for each in (found[:_MAX_PROBLEMS] if isinstance(found, list) else ())
        if isinstance(each, dict)
    ]
    return told or [("request", "was refused")]


def _plain(value: object) -> str:
    """As text that does nothing to a terminal, and isn't long."""
    return "".join(each if each.isprintable() else "?" for each in str(value)[:_MAX_TEXT])


def _uuids(values: object) -> list[UUID]:
    found: list[UUID] = []
    for each in values if isinstance(values, list) else ():
        with suppress(ValueError):
            found.append(UUID(str(each)))
    return found
