"""Errors as RFC 9457 problem documents: one table, and fixed public text.

Nothing of what a caller sent, and nothing of what a driver said, is in an answer. FastAPI's own 422 echoes the
request's body, secrets included, so it is replaced.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import errors
from service.api.rate_limiting import HEADERS as RATE_LIMIT_HEADERS
from service.api.validation_problems import problems_of
from service.exception_location import exception_location
from service.observability import current_request_id, current_trace_id

PROBLEM_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:vault-credentials:error:"

_log = logging.getLogger(__name__)


class FieldProblem(BaseModel):
    """One value that was refused."""

    field: str = Field(description="Which: a field's, parameter's or header's name; `body` or `query` for the whole.")
    problem: str = Field(description="What is wrong with it. Never the value itself.")


class Problem(BaseModel):
    """An error (RFC 9457). Match on `type`; the texts are for people."""

    type: str = Field(description="Which error: `urn:vault-credentials:error:` and a name that stays.")
    title: str = Field(description="The error in words; the same for every error of this type.")
    status: int = Field(description="The HTTP status.")
    instance: str = Field(description="The request's id, as in the service's log.")
    trace_id: str | None = Field(
        default=None, description="The trace's id, where the request came with a valid `traceparent`."
    )
    errors: list[FieldProblem] | None = Field(default=None, description="What was refused, where input was.")
    # Extension members (RFC 9457, 3.2), each of one type of error.
    count: int | None = Field(
        default=None, description="Of `versions-still-needed`: how many credentials are in the way."
    )
    credentials: list[str] | None = Field(
        default=None, description="Of `versions-still-needed`: the ids of the first hundred of these."
    )
    job: str | None = Field(default=None, description="Of `job-failed`: the job's id.")


@dataclass(frozen=True, slots=True)
class Answer:
    """How one class of errors is answered."""

    status: int
    slug: str
    title: str
    retry_after: float | None = None  # seconds, where the error itself knows none and waiting helps


ANSWERS: dict[type[Exception], Answer] = {
    # what the caller sent
    errors.InvalidInput: Answer(422, "invalid-input", "The request is not valid."),
    errors.BodyTooLarge: Answer(413, "body-too-large", "The request's body is too large."),
    errors.BodyTooSlow: Answer(408, "body-too-slow", "The request's body did not come in time."),
    errors.WrongContentType: Answer(
        415, "wrong-content-type", "The body has to be application/json in UTF-8, not compressed."
    ),
    errors.TokenMissing: Answer(401, "authentication-required", "A bearer token is required."),
    errors.AuthenticationFailed: Answer(401, "authentication-failed", "The bearer token is not acceptable."),
    errors.PermissionDenied: Answer(403, "permission-denied", "This caller may not do this."),
    # what it is about; an absent credential and another user's are the same
    errors.CredentialDenied: Answer(404, "credential-not-found", "There is no such credential."),
    errors.CredentialInactive: Answer(409, "credential-inactive", "The credential is disabled."),
    errors.WrongCredentialType: Answer(409, "wrong-credential-type", "The credential is of another type."),
    errors.Suspended: Answer(403, "suspended", "The user or the account is suspended."),
    errors.AccountTypeRefused: Answer(
        403,
        "account-type-refused",
        "The account is not of the type that has to be; one that was never validated counts as live.",
    ),
    errors.AccountTypeUnknown: Answer(
        409, "account-type-unknown", "Whether the account is paper or live isn't known; validate the credential first."
    ),
    errors.ProxyRefused: Answer(403, "proxy-refused", "This method and path may not be called here."),
    errors.RateLimited: Answer(429, "rate-limited", "Over the limit; nothing was done.", retry_after=1),
    errors.SuspensionNotFound: Answer(404, "not-suspended", "There is no such suspension."),
    errors.ConcurrentUpdate: Answer(409, "concurrent-update", "Another change came first; nothing was changed."),
    errors.CasMismatch: Answer(409, "concurrent-update", "Another change came first; nothing was changed."),
    errors.NothingToRollBack: Answer(409, "nothing-to-roll-back", "No previous version is kept."),
    errors.IdempotentResultGone: Answer(
        409, "idempotent-result-gone", "What was stored under this Idempotency-Key has been deleted."
    ),
    errors.CredentialUnreadable: Answer(
        409, "credential-unreadable", "The stored credential does not open; store it again."
    ),
    errors.KeyNotFound: Answer(404, "key-not-found", "There is no such key."),
    errors.JobNotFound: Answer(404, "job-not-found", "There is no such job."),
    errors.JobUnderWay: Answer(409, "job-under-way", "Another job of this kind is under way for this key."),
    errors.VersionsStillNeeded: Answer(
        409, "versions-still-needed", "Credentials are still encrypted under these versions; nothing was changed."
    ),
    errors.JobFailed: Answer(409, "job-failed", "The job ended without success; its record says why."),
    errors.PreconditionFailed: Answer(412, "precondition-failed", "The credential is not at the version in If-Match."),
    errors.PreconditionRequired: Answer(428, "precondition-required", "If-Match is required here."),
    errors.IdempotencyMismatch: Answer(
        422, "idempotency-mismatch", "This Idempotency-Key was used with another request."
    ),
    # what the service needs
    errors.WriteInterrupted: Answer(
        503, "write-interrupted", "The write took too long and was undone; send it again.", retry_after=1
    ),
    errors.IssuerUnavailable: Answer(
        503, "issuer-unavailable", "The token issuer's keys can't be fetched at the moment.", retry_after=5
    ),
    errors.TemporarilyUnavailable: Answer(
        503, "temporarily-unavailable", "The service can't do this at the moment.", retry_after=5
    ),
    errors.Busy: Answer(503, "busy", "The service has too much to do at the moment.", retry_after=1),
    errors.VaultUnavailable: Answer(503, "vault-unavailable", "Vault does not answer.", retry_after=5),
    errors.VaultSealed: Answer(503, "vault-sealed", "Vault is sealed.", retry_after=30),
    errors.VaultStandby: Answer(503, "vault-standby", "Vault has no active node at hand.", retry_after=5),
    errors.VaultThrottled: Answer(503, "vault-throttled", "Vault is over its rate limit.", retry_after=1),
    errors.DatabaseUnavailable: Answer(503, "database-unavailable", "The database does not answer.", retry_after=5),
    errors.DatabaseNotReady: Answer(503, "database-not-ready", "The database is not migrated.", retry_after=30),
    errors.ProviderUnavailable: Answer(
        503, "provider-unavailable", "The provider did not answer, so nothing is known.", retry_after=5
    ),
    errors.ProviderThrottled: Answer(
        503, "provider-throttled", "The provider is over its rate limit; nothing is known of the keys.", retry_after=60
    ),
    errors.ProviderRefused: Answer(
        503, "provider-refused", "The provider's answer can't be used (a redirect, say), so nothing is known."
    ),
    errors.ProviderOutcomeUnknown: Answer(
        502, "provider-outcome-unknown", "The call was sent and no whole answer came; it may have been done."
    ),
    # what an operator has to mend
    errors.VaultDenied: Answer(502, "vault-denied", "Vault refused the service; an operator has to look."),
    errors.VaultRefused: Answer(502, "vault-refused", "Vault refused the service; an operator has to look."),
    errors.InstallationMismatch: Answer(
        500, "installation-mismatch", "Vault and the database don't belong together; an operator has to look."
    ),
    errors.ConfigurationError: Answer(
        500, "misconfigured", "The service's settings don't fit; an operator has to look."
    ),
    errors.CredentialsError: Answer(500, "internal", "Something went wrong."),
}
"""Every error this service answers with; a class that isn't here is answered as its nearest base."""

_INTERNAL = ANSWERS[errors.CredentialsError]
_HTTP_TITLES = {
    404: ("no-such-resource", "There is nothing at this address."),
    405: ("method-not-allowed", "This method is not for this address."),
}


def answer_to(error: Exception) -> Answer:
    """The table's entry for the error's class, or the nearest base class that has one."""
    return next((ANSWERS[base] for base in type(error).__mro__ if base in ANSWERS), _INTERNAL)


def problem_response(
    answer: Answer,
    *,
    problems: Sequence[tuple[str, str]] = (),
    retry_after: float | None = None,
    members: Mapping[str, Any] | None = None,
) -> Response:
    """The answer as a problem document; `retry_after` (seconds) goes before the table's. `members`: the type's own."""
    problem = Problem(
        type=TYPE_PREFIX + answer.slug,
        title=answer.title,
        status=answer.status,
        instance=current_request_id() or "",
        trace_id=current_trace_id(),
        errors=[FieldProblem(field=field, problem=text) for field, text in problems] or None,
        **(members or {}),
    )
    response = Response(problem.model_dump_json(exclude_none=True), answer.status, media_type=PROBLEM_TYPE)
    wait = answer.retry_after if retry_after is None else retry_after
    if wait is not None and math.isfinite(wait):
        response.headers["Retry-After"] = str(max(0, math.ceil(wait)))
    if answer.status == 401:
        # RFC 6750, 3.1: no error code where there was no token.
        failed = "" if answer is ANSWERS[errors.TokenMissing] else ', error="invalid_token"'
        response.headers["WWW-Authenticate"] = f'Bearer realm="vault-credentials"{failed}'
    return response


def install_error_responses(app: FastAPI) -> None:
    """Answers every error with a problem document. Unexpected ones need `UnexpectedErrors` around the app, too."""
    app.add_exception_handler(errors.CredentialsError, _on_known)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)


class UnexpectedErrors:
    """ASGI middleware: an exception that nobody expected is a 500 of fixed text, and a log line without its message.

    It has to be inside Starlette's own ServerErrorMiddleware, which raises again after answering, so that the server
    logs the exception's text.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def noting_send(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, noting_send)
        except ClientDisconnect:
            return  # nobody is left to be answered
        except Exception as error:  # noqa: BLE001 - the last stop: beyond it the server logs the exception's text
            _log.error("unexpected error", extra={"exception": exception_location(error)})
            if not begun:
                await problem_response(_INTERNAL)(scope, receive, send)
                return
        else:
            return
        # Half an answer has been sent: the server has to see that it broke off, but not the exception's text.
        raise RuntimeError("the answer broke off")


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These statuses for a route's `responses`, as problem documents. `openapi_document` puts the schema in place."""
    return {status: _documented(status, [a for a in ANSWERS.values() if a.status == status]) for status in statuses}


def _documented(status: int, answers: Iterable[Answer]) -> dict[str, Any]:
    headers: dict[str, Any] = {}
    answers = list(answers)
    if status == 401:
        headers["WWW-Authenticate"] = {"description": "RFC 6750.", "schema": {"type": "string"}}
    if status == 429:
        headers.update(RATE_LIMIT_HEADERS)
    if any(answer.retry_after is not None for answer in answers):
        headers["Retry-After"] = {"description": "Seconds, where waiting helps.", "schema": {"type": "integer"}}
    slugs = ", ".join(f"`{slug}`" for slug in dict.fromkeys(answer.slug for answer in answers))
    return {
        "description": f"Problem: {slugs}.",
        "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        **({"headers": headers} if headers else {}),
    }


async def _on_known(_request: Request, error: Exception) -> Response:
    answer = answer_to(error)
    if answer.status >= 500 or isinstance(error, errors.CredentialUnreadable):
        _log.warning("a request failed", extra={"exception": exception_location(error)})
    problems: Sequence[tuple[str, str]] = ()
    if isinstance(error, errors.InvalidFields):
        problems = error.problems
    elif isinstance(error, errors.InvalidInput):
        problems = [(error.field, error.problem)]
    known = error.retry_after if isinstance(error, errors.TemporarilyUnavailable | errors.RateLimited) else None
    return problem_response(answer, problems=problems, retry_after=known, members=_members(error))


def _members(error: Exception) -> dict[str, Any]:
    """What an error's document has beside what all have."""
    if isinstance(error, errors.VersionsStillNeeded) and error.count:
        return {"count": error.count, "credentials": [str(each) for each in error.credential_ids]}
    if isinstance(error, errors.JobFailed) and error.job_id is not None:
        return {"job": str(error.job_id)}
    return {}


async def _on_validation(_request: Request, error: Exception) -> Response:
    found = error.errors() if isinstance(error, RequestValidationError) else []
    return problem_response(ANSWERS[errors.InvalidInput], problems=problems_of(found))


async def _on_http(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    slug, title = _HTTP_TITLES.get(status, ("internal", _INTERNAL.title) if status >= 500 else ("refused", "Refused."))
    response = problem_response(Answer(status, slug, title))
    if isinstance(error, HTTPException) and error.headers and "Allow" in error.headers:
        response.headers["Allow"] = _allowed(request) or error.headers["Allow"]
    return response


def _allowed(request: Request) -> str:
    """Every method of the address (RFC 9110, 10.2.1). The router tells those of the first route that fits alone."""
    app: FastAPI = request.app
    told, address = app.openapi()["paths"], request.scope["path"]
    # A path without parameters goes before those that it would fit, too.
    fitting = [address] if address in told else [path for path in told if compile_path(path)[0].match(address)]
    return ", ".join(sorted({method.upper() for path in fitting for method in told[path]}))
