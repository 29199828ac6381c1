"""Rows into the domain's records. The one place that knows the columns by name."""

from typing import Any

from service.modules.key_records import Job, JobKind, JobState
from service.modules.records import (
    Credential,
    PreviousSecret,
    RecordedEvent,
    Suspension,
    TransitReference,
    WriteIntent,
)


def credential_from(row: Any) -> Credential:
    """A row of `credentials`."""
    previous = None
    if row["previous_kv_version"] is not None:
        previous = PreviousSecret(
            kv_version=row["previous_kv_version"],
            secret_version=row["previous_secret_version"],
            transit_key_version=row["previous_transit_key_version"],
            expires_at=row["previous_expires_at"],
        )
    return Credential(
        id=row["id"],
        user_id=row["user_id"],
        account_id=row["account_id"],
        credential_type=row["credential_type"],
        account_type=row["account_type"],
        is_active=row["is_active"],
        reference=TransitReference(
            transit_mount=row["transit_mount"],
            transit_key=row["transit_key"],
            transit_key_version=row["transit_key_version"],
            binding=row["binding"],
            kv_mount=row["kv_mount"],
            kv_path=row["kv_path"],
            kv_version=row["kv_version"],
            secret_version=row["secret_version"],
        ),
        previous=previous,
        row_version=row["row_version"],
        validation_state=row["validation_state"],
        last_validated_at=row["last_validated_at"],
        last_used_at=row["last_used_at"],
        suspect_since=row["suspect_since"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def event_from(row: Any) -> RecordedEvent:
    """A row of `credential_events`."""
    return RecordedEvent(**dict(row))


def intent_from(row: Any) -> WriteIntent:
    """A row of `write_intents`."""
    return WriteIntent(
        id=row["id"], credential_id=row["credential_id"], kv_path=row["kv_path"], kv_version=row["kv_version"]
    )


def job_from(row: Any) -> Job:
    """A row of `jobs`."""
    return Job(**{**dict(row), "kind": JobKind(row["kind"]), "state": JobState(row["state"])})


def suspension_from(row: Any) -> Suspension:
    """A row of `suspensions`."""
    return Suspension(**dict(row))
