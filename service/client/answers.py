"""The service's answers as models, and what of their headers a caller needs."""

import re
from typing import TypeVar
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel, Field, ValidationError

from service.client.exchange import Answer
from service.errors import UnexpectedAnswer
from service.schemas.credential_metadata import CredentialMetadata

_NEXT = re.compile(r'<([^<>]*)>; rel="next"')
_Model = TypeVar("_Model", bound=BaseModel)


class KnownCredential(CredentialMetadata):
    """A credential's metadata, and the version that it is of. It never holds a secret."""

    etag: str | None = Field(default=None, description="For `if_match`; null where it comes from a list.")


def read_as(model: type[_Model], answer: Answer) -> _Model:
    """The answer's body. Raises UnexpectedAnswer where it isn't that."""
    try:
        return model.model_validate_json(answer.body)
    except ValidationError:
        pass
    raise UnexpectedAnswer  # out here, so that what was answered is not chained


def known(answer: Answer) -> KnownCredential:
    """One credential, with its ETag. Raises as `read_as`."""
    return read_as(KnownCredential, answer).model_copy(update={"etag": answer.headers.get("etag")})


def next_cursor(answer: Answer) -> str | None:
    """Where the next page begins; None after the last. Of the link nothing else is used: it could lead anywhere.

    Raises UnexpectedAnswer for a `Link` without a cursor.
    """
    link = answer.headers.get("link")
    if link is None:
        return None
    found = _NEXT.fullmatch(link)
    cursors: list[str] = []
    if found is not None:
        try:
            cursors = parse_qs(urlsplit(found[1]).query).get("cursor", [])
        except ValueError:
            cursors = []
    if len(cursors) != 1:
        raise UnexpectedAnswer
    return cursors[0]
