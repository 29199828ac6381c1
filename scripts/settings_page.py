#!/usr/bin/env python3
"""Writes docs/settings.md: every setting, its default, and what it is for, as `service/settings.py` has them.

`.venv/bin/python scripts/settings_page.py > docs/settings.md`; a test compares the two.
"""

import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import AliasChoices
from pydantic.fields import FieldInfo

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from service.settings import Settings

_HEAD = """# Settings

By environment; or each as a file of its variable's name in the folder that `CREDENTIALS_SETTINGS_DIR` names, so that no
secret is in the environment. What can't be used is named at start, and nothing starts. Times are seconds where nothing
else is said. [scripts/settings_page.py](../scripts/settings_page.py) writes this page.
"""

_PARTS = (
    ("The process", "zeroing"),
    ("The providers", "alpaca_base_url"),
    ("Using credentials", "handoff_seconds"),
    ("Postgres", "database_url"),
    ("Vault", "vault_addr"),
    ("How much at once, in one process", "batch_items"),
    ("Rotation: a worker's logins, or the service's as well", "rotator_database_url"),
    ("Who may call", "oidc_issuer"),
    ("The service", "host"),
)
"""Headings, each with the first setting below it."""

_WORDS = {
    "alpaca_base_url": "Trading.",
    "polygon_base_url": "Market data; `https://api.massive.com` is its newer name.",
    "database_url": "As the runtime's role, which owns nothing.",
    "database_pool_size": "Connections.",
    "vault_addr": "Where Vault is.",
    "vault_namespace": "Vault's namespace; by default the root one.",
    "vault_cacert": "Authorities that Vault's certificate may be from; by default the system's.",
    "vault_capath": "The same, a folder of them.",
    "vault_client_cert": "A certificate of ours, for TLS to Vault.",
    "vault_client_key": "Its key.",
    "vault_tls_server_name": "The name that Vault's certificate is for, where it isn't its address's.",
    "vault_login": "`approle`, `kubernetes`, or `token_file`.",
    "vault_role_id": "AppRole's.",
    "vault_secret_id": "AppRole's; better in a file.",
    "vault_secret_id_file": "A file with it, read at each login.",
    "vault_kubernetes_role": "The role at Kubernetes' login.",
    "vault_kubernetes_jwt_file": "The service account's token.",
    "transit_mount": "Vault's transit engine.",
    "transit_key_prefix": "Its keys' names begin so.",
    "kv_mount": "Vault's KV version 2.",
    "oidc_issuer": "Whose tokens are accepted. None: the service lets nobody in.",
    "oidc_audience": "What they have to be for (`aud`).",
    "oidc_algorithms": "How they may be signed.",
    "oidc_user_claim": "Where the user's name is.",
    "oidc_roles_claim": "Where the roles are.",
    "oidc_cacert": "Authorities that the issuer's certificate may be from; by default the system's.",
    "host": "Where the service listens.",
    "port": "At which port.",
    "max_body_bytes": "Of a request; a proxied one is streamed.",
    "idempotency_hours": "How long an `Idempotency-Key` is remembered.",
    "log_level": "Of Python's names.",
}
"""Of those that need no explanation where they are used."""


def variable(name: str, field: FieldInfo) -> str:
    """The environment's name for a setting."""
    if isinstance(field.validation_alias, AliasChoices):
        return str(field.validation_alias.choices[0])
    return f"CREDENTIALS_{name.upper()}"


def page() -> Iterator[str]:
    """The lines of the page."""
    yield from _HEAD.splitlines()
    headings = {first: heading for heading, first in _PARTS}
    for name, field in _in_order():
        if name in headings:
            yield from ("", f"## {headings[name]}", "", "| variable | default | |", "|---|---|---|")
        words = field.description or _WORDS.get(name) or _of_rotator(name)
        yield f"| `{variable(name, field)}` | {_default(field)} | {words.replace('|', '&#124;')} |"


def _in_order() -> list[tuple[str, FieldInfo]]:
    """In pydantic's order, but the headings' parts in the page's."""
    firsts = [first for _, first in _PARTS]
    part, parts = firsts[0], {first: list[tuple[str, FieldInfo]]() for first in firsts}
    for name, field in Settings.model_fields.items():
        part = name if name in parts else part
        parts[part].append((name, field))
    return [each for first in firsts for each in parts[first]]


def _of_rotator(name: str) -> str:
    """The rotator's login has the settings of the service's."""
    alike = name.removeprefix("rotator_")
    if alike == name:
        raise KeyError(name)
    return Settings.model_fields[alike].description or _WORDS[alike]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value: Any = field.get_default(call_default_factory=True)
    if isinstance(value, Enum):
        value = value.value
    if value is None or value == () or value == {} or value == frozenset():
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, tuple):
        value = ", ".join(value)
    return f"`{value}`"


if __name__ == "__main__":
    print("\n".join(page()))
