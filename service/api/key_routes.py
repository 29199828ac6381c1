"""Transit keys: what is encrypted under them, and having them rotated, rewrapped to and retired."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Response

from service.api.direct_route import DirectRoute
from service.api.error_responses import documented
from service.api.json_body import RetireBody, body_schema
from service.api.key_views import job_summary, key_details, report_details
from service.api.query_parameters import NoQuery
from service.api.runtime import ApiRuntime
from service.authz.dependencies import MayAdministerKeys, MayReadKeys
from service.modules.key_records import Job
from service.modules.records import KeyAdminAccess
from service.modules.vault_ui import VaultUi
from service.schemas.key_schemas import JobSummary, KeyDetails, KeyList, KeyReportDetails, RetireRequest
from service.settings import Settings

router = APIRouter(
    prefix="/v1/keys",
    tags=["keys"],
    responses=documented(401, 403, 404, 422, 500, 502, 503),
    route_class=DirectRoute,
)

KeyName = Annotated[str, Path(description="The transit key's name, as Vault has it.")]

_LOCATION = {"Location": {"description": "The job's address.", "schema": {"type": "string"}}}
_ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {"model": JobSummary, "headers": _LOCATION, "description": "Asked for; the job tells how far it is."}
}
_DONE_OR_ACCEPTED: dict[int | str, dict[str, Any]] = {
    200: {"model": KeyDetails, "description": "Done: the key as it is now."},
    **_ACCEPTED,
}


@router.get("")
async def list_keys(access: MayReadKeys, runtime: ApiRuntime, _query: NoQuery) -> KeyList:
    """The transit keys, one for each credential type, with what is encrypted under each of their versions."""
    mount = runtime.settings.transit_mount
    shown = [key_details(status, mount) for status in await runtime.keys.keys(access)]
    return KeyList(status="success", keys=shown, count=len(shown))


@router.get("/{name}")
async def get_key(access: MayReadKeys, runtime: ApiRuntime, _query: NoQuery, name: KeyName) -> KeyDetails:
    """One key: its versions, what is encrypted under each, and which are safe to retire."""
    return key_details(await runtime.keys.key(access, name), runtime.settings.transit_mount)


@router.get("/{name}/report")
async def report_key(access: MayReadKeys, runtime: ApiRuntime, _query: NoQuery, name: KeyName) -> KeyReportDetails:
    """One key's report: versions over time, credentials under each, who did what, and where Vault's UI shows it."""
    settings = runtime.settings
    return report_details(await runtime.keys.report(access, name), settings.transit_mount, _vault_ui(settings))


@router.post("/{name}/rotate", response_model=None, responses={**_DONE_OR_ACCEPTED, **documented(409)})
async def rotate_key(access: MayAdministerKeys, runtime: ApiRuntime, _query: NoQuery, name: KeyName) -> Response:
    """Has Vault make a new version, which new secrets are encrypted under from then on. Nothing stops opening.

    202 with the job where no worker has done it within some seconds. Asked for twice at once, it is one rotation.
    """
    return await _answer(runtime, access, await runtime.key_jobs.rotate(access, name))


@router.post("/{name}/rewrap", status_code=202, response_model=None, responses={**_ACCEPTED, **documented(409)})
async def rewrap_key(access: MayAdministerKeys, runtime: ApiRuntime, _query: NoQuery, name: KeyName) -> Response:
    """Has all credentials of older versions encrypted under the newest, inside Vault, a batch at a time.

    The job's `state` ends as `done` or `failed`. Asked for while one is under way, it is that one.
    """
    return _accepted(await runtime.key_jobs.rewrap(access, name))


@router.post(
    "/{name}/retire",
    response_model=None,
    responses={**_DONE_OR_ACCEPTED, **documented(408, 409, 413, 415)},
    openapi_extra=body_schema(RetireRequest),
)
async def retire_versions(
    access: MayAdministerKeys, runtime: ApiRuntime, _query: NoQuery, name: KeyName, body: RetireBody
) -> Response:
    """Has Vault decrypt nothing any more that is under a version below the given one.

    409 `versions-still-needed`, with a count and a list, where a credential or a kept previous secret still is: rewrap
    first. Whoever may configure the key in Vault can undo it; trimming the versions, which can't be undone, is no part
    of this.
    """
    return await _answer(runtime, access, await runtime.key_jobs.retire(access, name, body.below_version))


async def _answer(runtime: ApiRuntime, access: KeyAdminAccess, job: Job) -> Response:
    """The key where the job is done, else the job."""
    if not job.state.is_over:
        return _accepted(job)
    shown = key_details(await runtime.keys.key(access, job.transit_key), runtime.settings.transit_mount)
    return Response(shown.model_dump_json(), media_type="application/json")


def _accepted(job: Job) -> Response:
    shown = job_summary(job).model_dump_json()
    return Response(shown, 202, {"Location": f"/v1/jobs/{job.id}"}, media_type="application/json")


def _vault_ui(settings: Settings) -> VaultUi:
    return VaultUi(
        url=settings.vault_ui_url or settings.vault_addr,
        transit_mount=settings.transit_mount,
        kv_mount=settings.kv_mount,
        namespace=settings.vault_namespace,
    )
