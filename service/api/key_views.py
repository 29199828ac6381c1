"""Keys and jobs, from the domain's terms to the wire's."""

from datetime import timedelta

from service.modules.key_inventory import KeyReport, KeyStatus, KeyVersion
from service.modules.key_records import Job, JobFailure, JobKind
from service.modules.vault_ui import VaultUi
from service.schemas.key_schemas import (
    FailedCredential,
    JobDetails,
    JobSummary,
    KeyDetails,
    KeyReportDetails,
    KeyVersionDetails,
    VaultLinks,
)


def key_details(status: KeyStatus, transit_mount: str) -> KeyDetails:
    """A key as REST shows it."""
    vault = status.vault
    period = vault.auto_rotate_period
    return KeyDetails.model_validate(
        {
            "name": vault.name,
            "credential_type": status.credential_type,
            "transit_mount": transit_mount,
            "latest_version": vault.latest_version,
            "min_decryption_version": vault.min_decryption_version,
            "min_encryption_version": vault.min_encryption_version,
            "min_available_version": vault.min_available_version,
            "floor": status.floor,
            "safe_to_retire_below": status.safe_to_retire_below,
            "auto_rotate_seconds": None if period is None else int(period.total_seconds()),
            "next_rotation_at": status.next_rotation_at,
            "encryptions": status.encryptions,
            "versions": [_version(each) for each in status.versions],
            "warnings": status.warnings,
        }
    )


def _version(version: KeyVersion) -> KeyVersionDetails:
    return KeyVersionDetails.model_validate(
        {
            "version": version.version,
            "state": version.state.value,
            "created_at": version.created_at,
            "created_from": version.created_from,
            "credentials": version.use.credentials,
            "previous_secrets": version.use.previous_secrets,
            "oldest_credential_id": version.use.oldest_id,
            "oldest_credential_created_at": version.use.oldest_created_at,
        }
    )


def job_summary(job: Job) -> JobSummary:
    """A job as REST shows it."""
    return JobSummary.model_validate(_job(job))


def job_details(job: Job, failures: list[JobFailure]) -> JobDetails:
    """A job as REST shows it by itself."""
    failed = [
        FailedCredential.model_validate({"credential_id": each.credential_id, "reason": each.reason})
        for each in failures
    ]
    return JobDetails.model_validate({**_job(job), "failures": failed})


def _job(job: Job) -> dict[str, object]:
    shown: dict[str, object] = {
        name: getattr(job, name) for name in JobSummary.model_fields if name != "remaining_seconds"
    }
    remaining = remaining_time(job)
    return shown | {
        "kind": job.kind.value,
        "state": job.state.value,
        "remaining_seconds": None if remaining is None else round(remaining.total_seconds()),
    }


def remaining_time(job: Job) -> timedelta | None:
    """How long the rest of a rewrap takes at the pace so far; None where nothing is known of it.

    An estimate: a pause, because no worker ran, counts as work.
    """
    if job.kind is not JobKind.REWRAP or job.state.is_over or not job.done or job.total is None:
        return None
    if job.started_at is None or job.heartbeat_at is None:
        return None
    left = max(0, job.total - job.done - job.failed)
    return (job.heartbeat_at - job.started_at) / job.done * left


def report_details(report: KeyReport, transit_mount: str, ui: VaultUi) -> KeyReportDetails:
    """A key's report as REST shows it."""
    name = report.status.vault.name
    under_way = report.rewrap_under_way
    return KeyReportDetails(
        key=key_details(report.status, transit_mount),
        rewrap=None if under_way is None else job_summary(under_way),
        jobs=[job_summary(job) for job in report.jobs],
        links=VaultLinks(
            key=ui.key(name),
            key_versions=ui.key_versions(name),
            credentials=ui.credentials(),
            credential_template=ui.credential_template(),
        ),
    )
