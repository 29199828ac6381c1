"""The client is light: a program that imports it gets httpx and pydantic, and nothing of the service's own needs."""

import json
import subprocess
import sys

HEAVY = (
    *("aiohttp", "asyncpg", "cryptography", "fastapi", "hvac", "jwt", "prometheus_client"),
    *("pydantic_settings", "starlette", "tenacity", "typer", "uvicorn"),
    *("service.settings", "service.composition", "service.http_clients", "service.observability", "service.api"),
)
SCRIPT = "import json, sys, service.client; print(json.dumps(sorted(sys.modules)))"


def test_importing_the_client_imports_nothing_that_only_the_service_needs() -> None:
    told = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True, timeout=60)
    modules = set(json.loads(told.stdout))
    assert {"httpx", "pydantic", "service.client"} <= modules
    assert modules.isdisjoint(HEAVY)


def test_the_client_can_be_made_where_the_service_needs_are_not_installed() -> None:
    script = f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in {HEAVY!r}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
from service.client import CredentialsClient
CredentialsClient("https://service.test", token=lambda: "t")
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0
