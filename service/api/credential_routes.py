"""Storing, listing, changing and deleting credentials. Answers are metadata; no route here returns a secret."""

from contextlib import ExitStack
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from service.api.direct_route import DirectRoute
from service.api.error_responses import documented
from service.api.json_body import StoreBody, UpdateBody, body_schema
from service.api.pagination import credential_cursor, cut_page
from service.api.preconditions import IdempotencyKey, IfMatch, set_etag
from service.api.query_parameters import CredentialQuery, NoQuery, OnceEach
from service.api.rate_limiting import MayRollBackNow, MayStoreNow, MayUpdateNow
from service.api.runtime import ApiRuntime
from service.authz.dependencies import MayDelete, MayRead
from service.modules.credential_writer import NewCredential
from service.modules.records import Credential, Cursor
from service.schemas.credential_metadata import CredentialMetadata, CredentialPage
from service.schemas.credential_schemas import StoreCredentialRequest, UpdateCredentialRequest

router = APIRouter(
    prefix="/v1",
    tags=["credentials"],
    responses=documented(401, 403, 422, 500, 502, 503),
    route_class=DirectRoute,
)

CredentialId = Annotated[str, Path(description="The credential's id (a UUID).", json_schema_extra={"format": "uuid"})]

_ETAG = {"ETag": {"description": "The version, for If-Match.", "schema": {"type": "string"}}}
_LOCATION = {"Location": {"description": "The credential's address.", "schema": {"type": "string"}}}
_LINK = {"Link": {"description": 'The next page, `rel="next"`; absent on the last.', "schema": {"type": "string"}}}


@router.post(
    "/credentials",
    status_code=201,
    responses={201: {"headers": {**_ETAG, **_LOCATION}}, **documented(408, 409, 413, 415, 429)},
    openapi_extra=body_schema(StoreCredentialRequest),
)
async def store_credential(
    access: MayStoreNow,
    runtime: ApiRuntime,
    _query: NoQuery,
    idempotency_key: IdempotencyKey,
    body: StoreBody,
    response: Response,
) -> CredentialMetadata:
    """Stores a credential, encrypted by Vault. Safe to send again with the same `Idempotency-Key`."""
    with body.api_key as api_key, body.secret_key as secret_key:
        new = NewCredential(body.account_id, body.credential_type, api_key, secret_key)
        credential = await runtime.writer.store(access, new, idempotency_key=idempotency_key)
    response.headers["Location"] = f"/v1/credentials/{credential.id}"
    return _shown(credential, response)


@router.get("/credentials", responses={200: {"headers": _LINK}})
async def list_credentials(
    access: MayRead,
    runtime: ApiRuntime,
    _once: OnceEach,
    query: Annotated[CredentialQuery, Query()],
    request: Request,
    response: Response,
) -> CredentialPage:
    """The credentials' metadata, newest first, a page at a time."""
    after = credential_cursor(query.cursor)
    found = await runtime.reader.page(access, query.as_filter(), after, query.limit + 1)
    page = cut_page(request, response, found, query.limit, lambda last: Cursor(last.created_at, last.id))
    shown = [CredentialMetadata.model_validate(credential) for credential in page]
    return CredentialPage(status="success", credentials=shown, count=len(shown))


@router.get("/credentials/{credential_id}", responses={200: {"headers": _ETAG}, **documented(404)})
async def get_credential(
    access: MayRead, runtime: ApiRuntime, _query: NoQuery, credential_id: CredentialId, response: Response
) -> CredentialMetadata:
    """One credential's metadata."""
    return _shown(await runtime.reader.get(access, credential_id), response)


@router.patch(
    "/credentials/{credential_id}",
    responses={200: {"headers": _ETAG}, **documented(404, 408, 409, 412, 413, 415, 428, 429)},
    openapi_extra=body_schema(UpdateCredentialRequest),
)
async def update_credential(
    access: MayUpdateNow,
    runtime: ApiRuntime,
    _query: NoQuery,
    credential_id: CredentialId,
    if_match: IfMatch,
    body: UpdateBody,
    response: Response,
) -> CredentialMetadata:
    """Changes the keys, or enables or disables. The secret before is kept for a while, for a rollback."""
    with ExitStack() as stack:
        for key in (body.api_key, body.secret_key):
            if key is not None:  # an empty Plaintext is false
                stack.enter_context(key)
        credential = await runtime.writer.update(
            access,
            credential_id,
            api_key=body.api_key,
            secret_key=body.secret_key,
            is_active=body.is_active,
            if_match=if_match,
        )
    return _shown(credential, response)


@router.delete(
    "/credentials/{credential_id}",
    status_code=204,
    response_class=Response,  # not JSON's: an answer without a body has no content type
    responses=documented(404, 409, 412, 428),
)
async def delete_credential(
    access: MayDelete, runtime: ApiRuntime, _query: NoQuery, credential_id: CredentialId, if_match: IfMatch
) -> None:
    """Deletes a credential for good."""
    await runtime.writer.delete(access, credential_id, if_match=if_match)


@router.post(
    "/credentials/{credential_id}/rollback",
    responses={200: {"headers": _ETAG}, **documented(404, 409, 412, 428, 429)},
)
async def roll_back_credential(
    access: MayRollBackNow,
    runtime: ApiRuntime,
    _query: NoQuery,
    credential_id: CredentialId,
    if_match: IfMatch,
    response: Response,
) -> CredentialMetadata:
    """Makes the secret before the last update the present one again."""
    return _shown(await runtime.writer.rollback(access, credential_id, if_match=if_match), response)


def _shown(credential: Credential, response: Response) -> CredentialMetadata:
    set_etag(response, credential)
    return CredentialMetadata.model_validate(credential)
