"""What callers send, checked before it goes anywhere: ids, names. Errors name the field, never the value."""

from uuid import UUID

from service.errors import InvalidInput
from service.names import MAX_NAME_BYTES, name_problem

MAX_USER_ID_BYTES = MAX_NAME_BYTES


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
    """Refuses what would break a whole batch in Postgres, or look like another user. Raises InvalidInput.

    What is refused: `service.names.name_problem`.
    """
    problem = name_problem(value)
    if problem is not None:
        raise InvalidInput(field, problem)
    return value
