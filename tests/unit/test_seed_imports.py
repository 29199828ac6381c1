"""The seed's interface, as programs import it: from within `service/` and from outside, one state, typed, exact."""

import inspect
import subprocess
import sys
import textwrap
import typing
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal
from uuid import uuid4

import pytest
from pydantic import BaseModel, SecretStr, ValidationError

from service.modules import credential_service
from service.schemas import credential_schemas
from service.schemas.credential_schemas import (
    CredentialResponse,
    ListCredentialsResponse,
    StoreCredentialRequest,
    UpdateCredentialRequest,
    ValidateCredentialRequest,
    ValidateCredentialResponse,
)
from tests.support import canary

SERVICE = Path(__file__).parents[2] / "service"
NAMES = "get_decrypted_alpaca_credential, get_decrypted_credential, store_credential, validate_alpaca_credentials"
SCHEMAS = (
    "StoreCredentialRequest, UpdateCredentialRequest, CredentialResponse, ValidateCredentialRequest, "
    "ValidateCredentialResponse, ListCredentialsResponse"
)


def run_within_service(program: str) -> str:
    """Runs a program as somebody does who works in the folder `service/`; returns what it printed."""
    ran = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(program)],
        cwd=SERVICE,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    # -X dev also tells of each callback that took a tenth of a second, as any may on a busy machine.
    said = [
        line for line in ran.stderr.splitlines() if not (line.startswith("Executing <") and line.endswith("seconds"))
    ]
    assert said == []
    return ran.stdout


@pytest.mark.parametrize("prefix", ["", "service."])
def test_the_schemas_and_functions_can_be_imported_from_within_the_folder(prefix: str) -> None:
    printed = run_within_service(f"""
        from {prefix}schemas.credential_schemas import {SCHEMAS}
        from {prefix}modules.credential_service import {NAMES}
        print(StoreCredentialRequest.__name__, get_decrypted_alpaca_credential.__name__)
    """)
    assert printed == "StoreCredentialRequest get_decrypted_alpaca_credential\n"


def test_the_unprefixed_modules_are_the_same_files_and_no_copy() -> None:
    printed = run_within_service("""
        import modules.credential_service, schemas.credential_schemas
        print(modules.credential_service.__file__, schemas.credential_schemas.__file__)
    """)
    expected = [str(SERVICE / "modules" / "credential_service.py"), str(SERVICE / "schemas" / "credential_schemas.py")]
    assert printed.split() == expected


def test_what_a_process_holds_open_is_one_under_both_names() -> None:
    """Nothing is asked of Vault or Postgres until needed, so a runtime can be had without them."""
    printed = run_within_service("""
        import asyncio
        import modules.credential_service as inside
        import service.modules.credential_service as outside
        from service.composition import close_process_runtime, configure
        from service.settings import load_settings

        async def main():
            given = {"vault_addr": "http://127.0.0.1:1", "vault_role_id": "r", "vault_secret_id": "s"}
            configure(load_settings(database_url="postgresql://u@127.0.0.1:1/d", **given))
            one, _ = await inside._as_owner("alice")
            other, _ = await outside._as_owner("alice")
            print(inside is not outside, one is other)
            await close_process_runtime()

        asyncio.run(main())
    """)
    assert printed == "True True\n"


def test_the_decorated_functions_are_async_generator_functions() -> None:
    for function in (credential_service.get_decrypted_alpaca_credential, credential_service.get_decrypted_credential):
        wrapped: Any = function
        assert inspect.isasyncgenfunction(wrapped.__wrapped__)
        assert list(inspect.signature(function).parameters) == ["conn", "credential_id", "user_id"]


def test_storing_and_validating_are_coroutine_functions_with_the_seeds_parameters() -> None:
    store = credential_service.store_credential
    assert inspect.iscoroutinefunction(store)
    names = ["conn", "account_id", "user_id", "credential_type", "api_key", "secret_key"]
    assert list(inspect.signature(store).parameters) == names
    validate = credential_service.validate_alpaca_credentials
    assert inspect.iscoroutinefunction(validate)
    assert list(inspect.signature(validate).parameters) == ["api_key", "secret_key"]


def test_the_package_says_that_it_is_typed_and_is() -> None:
    assert (files("service") / "py.typed").is_file()
    for name in credential_service.__all__:
        function = getattr(credential_service, name)
        hints = typing.get_type_hints(
            inspect.unwrap(function), vars(credential_service) | {"Runtime": object}, include_extras=True
        )
        assert set(hints) == {*inspect.signature(function).parameters, "return"}


OPTIONAL_SECRET = SecretStr | None
FIELDS: list[tuple[type[BaseModel], dict[str, Any], set[str]]] = [
    (
        StoreCredentialRequest,
        {"account_id": str, "credential_type": str, "api_key": SecretStr, "secret_key": SecretStr},
        {"account_id", "credential_type", "api_key", "secret_key"},
    ),
    (
        UpdateCredentialRequest,
        {"api_key": OPTIONAL_SECRET, "secret_key": OPTIONAL_SECRET, "is_active": bool | None},
        set(),
    ),
    (
        CredentialResponse,
        {
            "id": str,
            "account_id": str,
            "credential_type": str,
            "is_active": bool,
            "created_at": str,
            "updated_at": str,
        },
        {"id", "account_id", "credential_type", "is_active", "created_at", "updated_at"},
    ),
    (ValidateCredentialRequest, {"api_key": SecretStr, "secret_key": SecretStr}, {"api_key", "secret_key"}),
    (
        ValidateCredentialResponse,
        {"is_valid": bool, "message": str, "account_type": Literal["paper", "live"] | None},
        {"is_valid", "message"},
    ),
    (
        ListCredentialsResponse,
        {"status": str, "credentials": list[CredentialResponse], "count": int},
        {"status", "credentials", "count"},
    ),
]


@pytest.mark.parametrize(("schema", "fields", "required"), FIELDS, ids=[each[0].__name__ for each in FIELDS])
def test_a_schema_has_exactly_its_fields_and_types_each_described(
    schema: type[BaseModel], fields: dict[str, Any], required: set[str]
) -> None:
    assert {name: field.annotation for name, field in schema.model_fields.items()} == fields
    assert {name for name, field in schema.model_fields.items() if field.is_required()} == required
    assert all(field.description for field in schema.model_fields.values())


def test_there_are_the_six_schemas_and_no_other() -> None:
    public = {
        name
        for name, thing in vars(credential_schemas).items()
        if isinstance(thing, type) and issubclass(thing, BaseModel) and thing is not BaseModel and name[0] != "_"
    }
    assert public == {schema.__name__ for schema, _fields, _required in FIELDS}


def test_a_response_is_made_from_a_rows_attributes_and_has_no_more_than_its_fields() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    row = SimpleNamespace(
        id=uuid4(),
        account_id=uuid4(),
        credential_type="alpaca",
        is_active=True,
        created_at=at,
        updated_at=at,
        api_key=canary(),
        binding=b"b" * 32,
    )
    assert CredentialResponse.model_validate(row).model_dump() == {
        "id": str(row.id),
        "account_id": str(row.account_id),
        "credential_type": "alpaca",
        "is_active": True,
        "created_at": "2026-01-02T03:04:05Z",
        "updated_at": "2026-01-02T03:04:05Z",
    }
    assert CredentialResponse.model_config["from_attributes"] is True


def test_no_schema_shows_a_secret_nor_what_was_wrong_with_it() -> None:
    api, secret = canary("AK"), canary("SK")
    stored = StoreCredentialRequest.model_validate(
        {"account_id": str(uuid4()), "credential_type": "alpaca", "api_key": api, "secret_key": secret}
    )
    given = ValidateCredentialRequest.model_validate({"api_key": api, "secret_key": secret})
    changed = UpdateCredentialRequest.model_validate({"api_key": api})
    for model in (stored, given, changed):
        for shown in (repr(model), str(model), model.model_dump_json(), repr(model.model_dump())):
            assert api not in shown
            assert secret not in shown
    with pytest.raises(ValidationError) as refused:
        StoreCredentialRequest.model_validate({"account_id": 1, "api_key": [api], "surprise": secret})
    assert api not in str(refused.value)
    assert secret not in str(refused.value)


def test_an_account_id_that_is_no_uuid_and_an_empty_secret_are_not_the_schemas_business() -> None:
    request = StoreCredentialRequest.model_validate(
        {"account_id": "not a uuid", "credential_type": "polygon", "api_key": "k", "secret_key": ""}
    )
    assert request.secret_key.get_secret_value() == ""
