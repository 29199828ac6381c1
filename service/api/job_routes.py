"""Jobs: how far a rotation, rewrap or retirement is, and stopping one."""

from typing import Annotated

from fastapi import APIRouter, Path

from service.api.direct_route import DirectRoute
from service.api.error_responses import documented
from service.api.key_views import job_details, job_summary
from service.api.query_parameters import NoQuery
from service.api.runtime import ApiRuntime
from service.authz.dependencies import MayAdministerKeys, MayReadKeys
from service.schemas.key_schemas import JobDetails, JobSummary

router = APIRouter(
    prefix="/v1/jobs",
    tags=["jobs"],
    responses=documented(401, 403, 404, 422, 500, 502, 503),
    route_class=DirectRoute,
)

JobId = Annotated[str, Path(description="The job's id (a UUID).", json_schema_extra={"format": "uuid"})]


@router.get("/{job_id}")
async def get_job(access: MayReadKeys, runtime: ApiRuntime, _query: NoQuery, job_id: JobId) -> JobDetails:
    """How far a job is, who asked for it, and what it failed on."""
    job, failures = await runtime.key_jobs.job(access, job_id)
    return job_details(job, failures)


@router.post("/{job_id}/stop", status_code=202)
async def stop_job(access: MayAdministerKeys, runtime: ApiRuntime, _query: NoQuery, job_id: JobId) -> JobSummary:
    """Asks whoever works on the job to stop. It ends as `failed`, reason `stopped`; what is done stays done.

    Of a job that is over nothing changes.
    """
    return job_summary(await runtime.key_jobs.stop(access, job_id))
