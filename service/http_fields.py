"""Header fields that every client of ours sends or reads. Light: `service.client` imports it, too."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

USER_AGENT = "vault-credentials"
MAX_RETRY_AFTER = 3600.0


def retry_after_seconds(value: str) -> float | None:
    """What `Retry-After` (RFC 9110, 10.2.3) says, in seconds, 0 to an hour; None where it says nothing."""
    value = value.strip()
    if re.fullmatch(r"[0-9]+", value):
        return MAX_RETRY_AFTER if len(value) > 6 else min(float(value), MAX_RETRY_AFTER)
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    return min(max((at - datetime.now(UTC)).total_seconds(), 0.0), MAX_RETRY_AFTER)
