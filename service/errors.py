"""Every error this service raises, in one hierarchy. No HTTP here: `api/error_responses.py` maps these to statuses.

An error's message is fixed text. None of them carries a value a caller sent, a ciphertext, a token or a driver's
message, so that whatever prints an exception prints no secret. The driver's own exception is chained as
`__cause__` only where it cannot hold one.
"""

from collections.abc import Sequence
from typing import TypeVar
from uuid import UUID


class CredentialsError(Exception):
    """Something went wrong."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])


_Error = TypeVar("_Error", bound=CredentialsError)


def again(error: _Error) -> _Error:
    """The same error, for another caller: an instance that several raise would gather all their tracebacks."""
    copied = type(error).__new__(type(error), *error.args)
    copied.args = error.args
    copied.__dict__.update(error.__dict__)
    return copied


def in_words(error: CredentialsError) -> str:
    """What the error's class says of itself, for logs: fixed text, whatever the instance holds."""
    return (type(error).__doc__ or "").strip().splitlines()[0]


class ConfigurationError(CredentialsError):
    """The settings don't fit together; the message names the setting, never its value."""


# --- what a caller sent ------------------------------------------------------------------------------------------


class InvalidInput(CredentialsError, ValueError):
    """A value was refused. `field` says which, `problem` why; the value itself is never kept."""

    def __init__(self, field: str, problem: str) -> None:
        self.field = field
        self.problem = problem
        super().__init__(f"{field}: {problem}")


class InvalidFields(InvalidInput):
    """Several values were refused. `problems` has each one's field and problem; `field` and `problem` the first's."""

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        super().__init__(*problems[0])
        self.problems = tuple(problems)


class BodyTooLarge(CredentialsError):
    """The request's body is larger than this service accepts."""


class BodyTooSlow(CredentialsError):
    """The request's body did not come in time."""


class WrongContentType(CredentialsError):
    """The request's body has to be application/json, in UTF-8, not compressed."""


class CredentialDenied(CredentialsError, ValueError):
    """The credential may not be opened by this caller. A `ValueError`, as the seed's interface promises."""


class CredentialNotFound(CredentialDenied):
    """No such credential for this user."""  # another user's credential says exactly the same (invariant 9)


class CredentialInactive(CredentialDenied):
    """The credential is disabled."""


class WrongCredentialType(CredentialDenied):
    """The credential is of another type than the one asked for."""


class Suspended(CredentialDenied):
    """The user or the account is suspended: nobody may use its credentials."""


class AccountTypeRefused(CredentialDenied):
    """The account is not of the type that is required or allowed here; one that was never validated counts as live."""


class AccountTypeUnknown(CredentialsError):
    """Whether this is a paper or a live account is not known: validate the credential first."""


class ProxyRefused(CredentialsError):
    """This method and path are not among those that may be called."""


class CallerGone(CredentialsError):
    """The caller hung up, so what was done for it was stopped; nobody is left to be answered."""


class SuspensionNotFound(CredentialsError):
    """Nobody of this name is suspended."""


class PreconditionFailed(CredentialsError):
    """The credential has changed since the version named in If-Match."""


class PreconditionRequired(CredentialsError):
    """This change has to name the version it changes, in If-Match."""


class ConcurrentUpdate(CredentialsError):
    """Another update of this credential won; nothing was changed by this one."""


class NothingToRollBack(CredentialsError):
    """There is no kept previous version of this credential."""


class IdempotencyMismatch(CredentialsError):
    """This Idempotency-Key was used with another request body."""


class IdempotentResultGone(CredentialsError):
    """The credential stored under this Idempotency-Key has been deleted since."""


class KeyNotFound(CredentialsError):
    """No such transit key of this service."""


class JobNotFound(CredentialsError):
    """No such job."""


class JobUnderWay(CredentialsError):
    """Another job of this kind is under way for this key, and asks for something else."""


class VersionsStillNeeded(CredentialsError):
    """Credentials are still encrypted under versions that were to be retired. Nothing was changed."""

    def __init__(self, message: str | None = None, *, count: int = 0, credential_ids: Sequence[UUID] = ()) -> None:
        self.count = count
        self.credential_ids = tuple(credential_ids)  # the first hundred
        super().__init__(message)


class JobFailed(CredentialsError):
    """The job ended without having done what it was for; it says why."""

    def __init__(self, message: str | None = None, *, job_id: UUID | None = None) -> None:
        self.job_id = job_id
        super().__init__(message)


class WriteInterrupted(CredentialsError):
    """The write took longer than its intent lives and was cleaned up; nothing was changed. Send it again."""


# --- identity and permission --------------------------------------------------------------------------------------


class AuthenticationFailed(CredentialsError):
    """The bearer token is missing or not acceptable."""


class TokenMissing(AuthenticationFailed):
    """There is no bearer token."""


class RateLimited(CredentialsError):
    """This caller, or this user's credentials, are over the limit for now; nothing was done."""

    def __init__(self, message: str | None = None, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PermissionDenied(CredentialsError):
    """This caller's role does not allow this."""


class IssuerUnavailable(CredentialsError):
    """The token issuer's keys could not be fetched, and none that fit are known."""


# --- what the credential is made of -------------------------------------------------------------------------------


class CredentialUnreadable(CredentialsError):
    """The credential's stored parts do not fit together, so it does not open. Store it again."""


class CiphertextGone(CredentialUnreadable):
    """The pinned version of the ciphertext is not in Vault's KV store."""


class CiphertextRejected(CredentialUnreadable):
    """Vault refused to decrypt: the ciphertext is not what its row says it is."""


class KeyVersionRetired(CredentialUnreadable):
    """The ciphertext is under a key version below the key's minimum."""


class InstallationMismatch(CredentialsError):
    """Vault and Postgres carry different installation ids: they do not belong together."""


# --- Vault --------------------------------------------------------------------------------------------------------


class TemporarilyUnavailable(CredentialsError):
    """Something this service needs does not answer at the moment."""

    def __init__(self, message: str | None = None, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds after which trying again may help, or None where nobody knows."""


class Busy(TemporarilyUnavailable):
    """More is waiting to be done than this process takes on; nothing was done. Try again."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message, retry_after=1.0)


class ConnectionBusy(CredentialsError):
    """The connection given is closed, or busy with another statement; nothing was sent over it."""


class VaultUnavailable(TemporarilyUnavailable):
    """Vault could not be reached, or answered with a fault of its own."""


class VaultSealed(VaultUnavailable):
    """Vault is sealed."""


class VaultStandby(VaultUnavailable):
    """This Vault node is a standby that does not forward requests."""


class VaultThrottled(VaultUnavailable):
    """Vault's rate limit was reached."""


class VaultDenied(CredentialsError):
    """Vault's policy or login refused the service itself. An operator has to look."""


class VaultLoginFailed(VaultDenied):
    """The service could not log in to Vault: what to look at is in docs/runbook-vault-sealed.md, at `Refuses`."""


class VaultRefused(CredentialsError):
    """Vault refused a request as wrong. An operator has to look."""


class CasMismatch(CredentialsError):
    """The KV path has another newest version than expected."""


# --- Postgres -----------------------------------------------------------------------------------------------------


class DatabaseUnavailable(TemporarilyUnavailable):
    """Postgres could not be reached, or could not do its work in time."""


class DatabaseNotReady(CredentialsError):
    """Postgres has not been migrated to what this version of the service needs: run `vault-credentials migrate`."""


# --- providers ----------------------------------------------------------------------------------------------------


class ProviderUnavailable(TemporarilyUnavailable):
    """The provider could not be asked, so nothing is known about the credential."""


class ProviderThrottled(ProviderUnavailable):
    """The provider's rate limit was reached, so nothing is known about the credential."""


class ProviderOutcomeUnknown(CredentialsError):
    """The call was sent and no whole answer came: nobody knows whether the provider has done it. Look, then repeat."""


class ProviderRefused(ProviderUnavailable):
    """The provider refused to answer (not because of the credential), so nothing is known about it."""


# --- the orchestrator's client ------------------------------------------------------------------------------------


class ServiceUnavailable(TemporarilyUnavailable):
    """The service does not answer; nothing was changed by this request."""


class ServiceOutcomeUnknown(CredentialsError):
    """The request was sent and no whole answer came: nobody knows whether the service has done it."""


class ServiceError(CredentialsError):
    """The service answered with an error that this client has no class for, or that says nothing of its kind."""

    def __init__(self, message: str | None = None, *, status: int = 0, name: str = "") -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status."""
        self.name = name
        """The problem's name, as the last part of its `type`; empty where there is none."""


class UnexpectedAnswer(CredentialsError):
    """What answers is not this service, or another version of it."""


class HandOffFailed(CredentialsError):
    """The credential was handed off, and could not be unwrapped."""


class HandOffExpired(HandOffFailed):
    """The hand-off was not unwrapped in time; it is of no more use to anybody. Ask again."""


class HandOffAlreadyUsed(HandOffFailed):
    """Vault no longer knows a hand-off that has not expired: somebody else may have unwrapped it. Raise an alarm."""


class HandOffMisdirected(HandOffFailed):
    """The hand-off points elsewhere than it may, so it was not unwrapped. Raise an alarm."""


class HandOffUnreadable(HandOffFailed):
    """What was unwrapped is not a pair of keys."""
