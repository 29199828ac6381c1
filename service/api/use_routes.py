"""Using credentials: asking the provider whether keys work."""

from fastapi import APIRouter
from starlette.exceptions import HTTPException

from service.api.credential_routes import CredentialId
from service.api.direct_route import DirectRoute
from service.api.error_responses import documented
from service.api.json_body import ValidateBody, body_schema
from service.api.query_parameters import NoQuery
from service.api.rate_limiting import HEADERS, MayValidateGivenNow, MayValidateNow
from service.api.runtime import ApiRuntime
from service.modules.records import ProviderVerdict
from service.schemas.credential_schemas import ValidateCredentialRequest, ValidateCredentialResponse

router = APIRouter(
    prefix="/v1",
    tags=["use"],
    responses={200: {"headers": HEADERS}, **documented(401, 403, 422, 429, 500, 502, 503)},
    route_class=DirectRoute,
)


@router.post(
    "/credentials/validate",
    responses=documented(408, 413, 415),
    openapi_extra=body_schema(ValidateCredentialRequest),
)
async def validate_given_keys(
    access: MayValidateGivenNow, runtime: ApiRuntime, _query: NoQuery, body: ValidateBody
) -> ValidateCredentialResponse:
    """Tries Alpaca keys without storing them. A provider that can't be asked is an error, never "invalid"."""
    with body.api_key as api_key, body.secret_key as secret_key:
        verdict = await runtime.validator.validate_given(access, api_key, secret_key)
    return _shown(verdict)


@router.api_route("/credentials/validate", methods=["GET", "PATCH", "DELETE"], include_in_schema=False)
async def not_a_credential() -> None:
    """Keeps this address from being taken for a credential's, which has these methods."""
    raise HTTPException(405, headers={"Allow": "POST"})


@router.post("/credentials/{credential_id}/validate", responses=documented(404, 409))
async def validate_stored_keys(
    access: MayValidateNow, runtime: ApiRuntime, _query: NoQuery, credential_id: CredentialId
) -> ValidateCredentialResponse:
    """Tries a stored credential, and notes what came of it."""
    return _shown(await runtime.validator.validate_stored(access, credential_id))


def _shown(verdict: ProviderVerdict) -> ValidateCredentialResponse:
    message = "The provider accepted the keys." if verdict.is_valid else "The provider refused the keys."
    return ValidateCredentialResponse.model_validate(
        {"is_valid": verdict.is_valid, "message": message, "account_type": verdict.account_type}
    )
