"""A body that is refused, or of which the rest never comes, is in no frame of the error that says so."""

from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from service.api.json_body import JsonBody
from service.api.secret_fields import ValidateFields
from service.errors import CredentialsError
from service.schemas.credential_schemas import ValidateCredentialRequest
from tests.evidence import found
from tests.shown import shown_by_reporters
from tests.support import canary

BAD_BODIES = {
    "cut off": '{"api_key": "%s"',
    "a string": '"%s"',
    "a list": '["%s"]',
    "a duplicate": '{"api_key": "%s", "api_key": ""}',
    "NaN": '{"api_key": "%s", "secret_key": NaN}',
    "NUL": '{"api_key": "%s\\u0000"}',
    "a missing field": '{"api_key": "%s"}',
    "an unknown field": '{"%s": 1}',
    "a number": '{"api_key": 1, "secret_key": "%s"}',
    "a list in a field": '{"api_key": ["%s"]}',
    "a byte order mark": '\ufeff{"api_key": "%s"}',
    "too large": '{"api_key": "%s"}' + " " * 300,
}


@pytest.mark.parametrize("length", ["declared", "not declared"])
@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
async def test_a_refused_body_is_in_no_frame_of_the_refusal(body: str, length: str) -> None:
    secret = canary()
    parts = [(body % secret).encode()[:20], (body % secret).encode()[20:]]
    headers = [(b"content-type", b"application/json")]
    if length == "declared":
        headers.append((b"content-length", str(sum(map(len, parts))).encode()))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    request = Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)
    runtime: Any = SimpleNamespace(settings=SimpleNamespace(max_body_bytes=250))
    with pytest.raises(CredentialsError) as refused:
        await JsonBody(ValidateCredentialRequest, ValidateFields.of)(request, runtime)
    shown = shown_by_reporters(refused.value)
    assert found([secret], shown) == []
    assert "json_body" in shown["rich"]


async def test_a_body_whose_client_has_gone_is_in_no_frame_of_the_error() -> None:
    secret = canary()
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": f'{{"api_key": "{secret}'.encode(), "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    headers = [(b"content-type", b"application/json"), (b"content-length", b"100")]
    request = Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)
    runtime: Any = SimpleNamespace(settings=SimpleNamespace(max_body_bytes=250))
    with pytest.raises(ClientDisconnect) as gone:
        await JsonBody(ValidateCredentialRequest, ValidateFields.of)(request, runtime)
    shown = shown_by_reporters(gone.value)
    assert found([secret], shown) == []
    assert "_read" in shown["rich"]
