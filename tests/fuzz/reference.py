"""What others read in the same bytes: h11 and `json`. They copy as they like; they are right."""

import base64
import json
from typing import Any

import h11


class NotRead(Exception):
    """The reference reads nothing there."""


def answer_of(content: bytes, *, closed: bool = True) -> tuple[int, bytes]:
    """The first answer in these bytes, by h11: its status and body. Raises NotRead."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=64 * 1024)
    connection.send(h11.Request(method="POST", target="/", headers=[("Host", "x"), ("Content-Length", "0")]))
    connection.send(h11.EndOfMessage())
    status, body = 0, b""
    try:
        connection.receive_data(content)
        if closed:
            connection.receive_data(b"")
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return status, body
            elif not isinstance(event, h11.InformationalResponse):
                raise NotRead
    except h11.RemoteProtocolError as error:
        raise NotRead(str(error)) from None


def object_of(document: bytes) -> dict[str, Any]:
    """A JSON object, strictly: RFC 8259, and no name twice on its first levels. Raises NotRead."""
    try:
        # As Latin-1: whether names and errors are UTF-8 doesn't matter here.
        found = json.loads(document.decode("latin-1"), parse_constant=_refuse, parse_int=str)
    except (ValueError, RecursionError):
        raise NotRead from None
    if not isinstance(found, dict):
        raise NotRead
    return found


def plaintext_of(item: Any) -> bytes | None:
    """What is encrypted in one item; None where it failed."""
    if not isinstance(item, dict) or not item.get("plaintext") or item.get("error") not in (None, ""):
        return None
    return base64.b64decode(item["plaintext"], validate=True)


def _refuse(name: str) -> None:
    raise ValueError(name)
