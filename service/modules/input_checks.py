"""What callers send, checked before it goes anywhere: ids, names. Errors name the field, never the value."""

from uuid import UUID

from service.errors import InvalidInput

MAX_USER_ID_BYTES = 512


def uuid_from(field: str, value: str | UUID) -> UUID:
    """A UUID in its usual form (RFC 9562: 8-4-4-4-12 hexadecimal digits). Raises InvalidInput."""
    if isinstance(value, UUID):
        return UUID(bytes=value.bytes)
    try:
        parsed = UUID(value)
    except (ValueError, AttributeError, TypeError):
        raise InvalidInput(field, "must be a UUID") from None
    # UUID() also takes braces, urn: and no dashes; one id is to have one spelling.
    if str(parsed) != value.lower():
        raise InvalidInput(field, "must be a UUID")
    return parsed


def check_user_id(value: str, field: str = "user_id") -> str:
    """Refuses what would break a whole batch in Postgres, or look like another user in a log. Raises InvalidInput."""
    if not isinstance(value, str) or not value:
        raise InvalidInput(field, "must not be empty")
    if any(character < " " or "\x7f" <= character <= "\x9f" for character in value):
        raise InvalidInput(field, "must not contain control characters")
    try:
        length = len(value.encode("utf-8"))
    except UnicodeEncodeError:
        raise InvalidInput(field, "must be valid Unicode") from None
    if length > MAX_USER_ID_BYTES:
        raise InvalidInput(field, f"must have at most {MAX_USER_ID_BYTES} bytes")
    return value
