"""Handing a credential off: the one answer that has a secret, a token that Vault gives the keys for, once."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from pydantic import SecretStr

from service.api.credential_routes import CredentialId
from service.api.direct_route import DirectRoute
from service.api.error_responses import documented
from service.api.json_body import HandOffBody, HandOffFailureBody, body_schema
from service.api.query_parameters import NoQuery
from service.api.rate_limiting import HEADERS, MayHandOffNow
from service.api.runtime import ApiRuntime
from service.modules.handoff import HandedOff
from service.schemas.handoff_schemas import HandOffFailureRequest, HandOffRequest, HandOffResponse
from service.settings import Settings

router = APIRouter(
    prefix="/v1",
    tags=["use"],
    responses=documented(401, 403, 404, 408, 409, 413, 415, 422, 429, 500, 502, 503),
    route_class=DirectRoute,
)

HandOffId = Annotated[str, Path(description="The hand-off's id (a UUID).", json_schema_extra={"format": "uuid"})]

_OPTIONAL_BODY: dict[str, Any] = {
    "requestBody": {**body_schema(HandOffRequest)["requestBody"], "required": False},
}


@router.post(
    "/credentials/{credential_id}/handoff",
    openapi_extra=_OPTIONAL_BODY,
    responses={200: {"headers": HEADERS}},
)
async def hand_off(
    access: MayHandOffNow, runtime: ApiRuntime, _query: NoQuery, credential_id: CredentialId, body: HandOffBody
) -> HandOffResponse:
    """A single-use wrapping token for the credential's keys, to be unwrapped at Vault before it expires.

    This service never has the keys. The token is worth them: it lasts until its time is over, whatever happens to the
    credential meanwhile. Check `creation_path` with `sys/wrapping/lookup` before you unwrap.
    """
    ttl = runtime.settings.handoff_seconds if body.ttl is None else body.ttl
    return _answered(await runtime.hand_offs.hand_off(access, credential_id, ttl), runtime.settings)


@router.post(
    "/credentials/{credential_id}/handoff/{handoff_id}/failure",
    status_code=204,
    response_class=Response,
    openapi_extra=body_schema(HandOffFailureRequest),
)
async def report_failure(
    access: MayHandOffNow,
    runtime: ApiRuntime,
    _query: NoQuery,
    credential_id: CredentialId,
    handoff_id: HandOffId,
    body: HandOffFailureBody,
) -> None:
    """Records that a hand-off of this caller's could not be unwrapped, in the last quarter of an hour, and why."""
    await runtime.hand_offs.report_failure(access, credential_id, handoff_id, body.reason)


def _answered(handed: HandedOff, settings: Settings) -> HandOffResponse:
    with handed.wrapped.token as token, token.reveal() as view:
        return HandOffResponse(
            handoff_id=str(handed.id),
            # A str: pydantic has no other way into JSON. It is freed with the answer, and so wiped.
            wrapping_token=SecretStr(str(view, "ascii")),
            expires_at=handed.wrapped.expires_at,
            creation_path=handed.wrapped.creation_path,
            vault_addr=settings.handoff_vault_addr or settings.vault_addr,
            vault_namespace=settings.vault_namespace,
            credential_type=handed.credential.credential_type,
            account_type=handed.credential.account_type,
            secret_version=handed.credential.secret_version,
        )
