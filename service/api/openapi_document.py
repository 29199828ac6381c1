"""The OpenAPI document, completed with what FastAPI can't see: strict bodies and problem documents."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from service.api.error_responses import FieldProblem, Problem
from service.modules.secret_pair import MAX_KEY_LENGTH
from service.schemas.credential_schemas import (
    StoreCredentialRequest,
    UpdateCredentialRequest,
    ValidateCredentialRequest,
)
from service.schemas.handoff_schemas import HandOffFailureRequest, HandOffRequest
from service.schemas.key_schemas import RetireRequest
from service.schemas.suspension_schemas import SuspendRequest

_SCHEMAS: tuple[type[BaseModel], ...] = (
    StoreCredentialRequest,
    UpdateCredentialRequest,
    ValidateCredentialRequest,
    RetireRequest,
    HandOffRequest,
    HandOffFailureRequest,
    SuspendRequest,
    FieldProblem,
    Problem,
)

_KEY = {"maxLength": MAX_KEY_LENGTH, "pattern": "^[!-~]([ -~]*[!-~])?$"}
_KEY_OR_NONE = {"maxLength": MAX_KEY_LENGTH, "pattern": "^([!-~]([ -~]*[!-~])?)?$"}
_BOUNDS: dict[str, dict[str, Any]] = {
    "account_id": {"format": "uuid"},
    "api_key": _KEY,
    "secret_key": _KEY_OR_NONE,
}
"""What the service checks of a body's fields, beyond the schemas' types. (Of `credential_type`, see below.)"""


def install_openapi(app: FastAPI) -> None:
    """Makes `app.openapi()` the complete document, built once. `app.state.credential_types` are those it lists."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=app.description,
        routes=app.routes,
        license_info=app.license_info,
    )
    components = document.setdefault("components", {}).setdefault("schemas", {})
    bounds = {**_BOUNDS, "credential_type": {"enum": sorted(app.state.credential_types)}}
    for schema in _SCHEMAS:
        described = schema.model_json_schema(ref_template="#/components/schemas/{model}")
        described.pop("$defs", None)  # each of them is in the list above
        for name, field in described["properties"].items():
            # Of a field that may be null, the string.
            next((choice for choice in field.get("anyOf", ()) if choice["type"] == "string"), field).update(
                bounds.get(name, {})
            )
        components[schema.__name__] = described
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", []):
                parameter["schema"] = _without_null(parameter["schema"])
    return document


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter that is optional is left out: there is no way to write null into a query or a header."""
    present = [choice for choice in schema.get("anyOf", []) if choice != {"type": "null"}]
    if len(present) != 1:
        return schema
    return {**present[0], **{name: value for name, value in schema.items() if name != "anyOf"}}
