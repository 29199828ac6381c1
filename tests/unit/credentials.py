"""A row of `credentials` to have, for tests in which Postgres has no part."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from service.modules.records import Credential, TransitReference

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def some_credential(*, secret_version: int = 1, **changes: Any) -> Credential:
    """Alice's, of an account that nobody else has; active, and nobody has asked its provider."""
    made = Credential(
        id=uuid4(),
        user_id="alice",
        account_id=uuid4(),
        credential_type="alpaca",
        account_type=None,
        is_active=True,
        reference=TransitReference(
            transit_mount="transit",
            transit_key="credentials-alpaca",
            transit_key_version=1,
            binding=b"b" * 32,
            kv_mount="credentials",
            kv_path="account/credential",
            kv_version=1,
            secret_version=secret_version,
        ),
        previous=None,
        row_version=1,
        validation_state="unvalidated",
        last_validated_at=None,
        last_used_at=None,
        created_at=NOW,
        updated_at=NOW,
    )
    return replace(made, **changes)
