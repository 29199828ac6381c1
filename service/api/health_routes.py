"""Whether the process lives, and whether it can do its work. Without a token, and without anything worth hiding."""

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from service.api.error_responses import documented
from service.api.runtime import ApiRuntime

router = APIRouter(tags=["health"], responses=documented(500))


class Liveness(BaseModel):
    """The process answers."""

    status: Literal["ok"] = Field(description="`ok`.")


class ReadinessCheck(BaseModel):
    """One thing that was tried."""

    model_config = ConfigDict(from_attributes=True)

    name: str = Field(description="What was tried.")
    ok: bool = Field(description="Whether it worked.")
    detail: str = Field(description="The same in words.")


class ReadinessReport(BaseModel):
    """Whether the service can do its work, and what is missing."""

    status: Literal["ready", "degraded", "not ready"] = Field(
        description="`ready` if every check is ok; `degraded` if the service works, but not for every credential."
    )
    checks: list[ReadinessCheck] = Field(description="Everything the service needs.")


@router.head("/healthz")
@router.get("/healthz")
async def liveness() -> Liveness:
    """The process lives. Says nothing of Vault or Postgres: restarting this would not mend those."""
    return Liveness(status="ok")


@router.head("/readyz")
@router.get("/readyz", responses={503: {"model": ReadinessReport, "description": "Not ready."}})
async def readiness(runtime: ApiRuntime, response: Response) -> ReadinessReport:
    """Tries everything that requests need, for real. 503 if something of it doesn't work.

    `skew` tells whether Vault and Postgres are of the same moment. Where they aren't, as after a restore of one of
    them, the answer is 200 all the same: taking this service out would end every credential's use instead of some
    credentials', and storing those anew, which mends them, goes through it.
    """
    tried = await runtime.readiness.check()
    checks = [ReadinessCheck.model_validate(check) for check in tried]
    works = all(check.ok for check in tried if check.blocking)
    response.status_code = 200 if works else 503
    if not works:
        return ReadinessReport(status="not ready", checks=checks)
    return ReadinessReport(status="ready" if all(check.ok for check in tried) else "degraded", checks=checks)
