#!/usr/bin/env python3
"""Tries what `docker compose up` has started: stores, lists, opens, validates, deletes over REST, has the
worker rewrap, and looks at Vault.

Run it before and after `docker compose down` and `up`: it opens what earlier runs have left, so that it is seen that
the data is kept. Needs Python and docker compose, and nothing of this project's. Exit status 1: something is wrong.
"""

import json
import os
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import Any, NoReturn

SERVICE = f"http://127.0.0.1:{os.environ.get('SERVICE_PORT', '8080')}"
VAULT = f"https://localhost:{os.environ.get('VAULT_PORT', '8200')}"
ACCOUNT = "7a5cd1b4-3d0b-4c5e-9f4e-6f0b4f5f9a10"
KEY = "credentials-alpaca"
START_SECONDS = 120
WORKER_SECONDS = 60


def main() -> None:
    """All steps, each of which says what it saw."""
    compose("version")
    expect(compose("ps", "--quiet") != "", "nothing runs: docker compose up -d")
    say("waiting for the service")
    wait_until_ready()
    bearer = token_of("user")

    earlier = call("GET", "/v1/credentials", bearer)["credentials"]
    say(f"kept from earlier runs: {len(earlier)}")
    for credential in earlier:
        opened(credential["id"], bearer, "opened, and sealed again, one of an earlier run")

    key = f"PKSMOKE{time.time_ns()}"
    stored = call(
        "POST",
        "/v1/credentials",
        bearer,
        {"account_id": ACCOUNT, "credential_type": "alpaca", "api_key": key, "secret_key": f"secret-of-{key}"},
    )
    say(f"stored {stored['id']}")
    listed = call("GET", "/v1/credentials", bearer)["credentials"]
    expect(stored["id"] in [each["id"] for each in listed], "what was stored is not listed")
    expect(key not in json.dumps(listed), "a list shows a key")
    say(f"listed {len(listed)}")
    opened(stored["id"], bearer, "opened, and sealed again")
    validate(stored["id"], bearer)
    for credential in earlier:
        call("DELETE", f"/v1/credentials/{credential['id']}", bearer)
    say(f"deleted {len(earlier)}, left 1 for the next run")
    events = call("GET", "/v1/events?limit=5", bearer)["events"]
    say(f"newest events: {', '.join(each['action'] for each in events)}")
    worker_rewraps()
    look_at_vault()
    say("all good")


def wait_until_ready() -> None:
    """Until the service can work, which it can't before Vault is unsealed and Postgres migrated."""
    give_up = time.monotonic() + START_SECONDS
    while True:
        try:
            status, _ = answer("GET", "/readyz", {})
        except OSError:
            status = 0
        if status == 200:
            say(f"ready: {SERVICE}")
            return
        if time.monotonic() > give_up:
            fail(f"the service is not ready after {START_SECONDS} s (/readyz: {status}); docker compose ps, logs")
        time.sleep(1)


def opened(credential_id: str, bearer: dict[str, str], words: str) -> None:
    """A new API key alone: the service opens what is there, for the other half, and seals both again."""
    changed = call("PATCH", f"/v1/credentials/{credential_id}", bearer, {"api_key": f"PKSMOKE{time.time_ns()}"})
    expect(changed["secret_version"] > 1, "the secret version did not rise")
    say(f"{words}: {credential_id}, secret version {changed['secret_version']}")


def validate(credential_id: str, bearer: dict[str, str]) -> None:
    """Alpaca refuses these keys, if it can be asked from here at all."""
    status, body = answer("POST", f"/v1/credentials/{credential_id}/validate", bearer)
    if status == 200:
        expect(body["is_valid"] is False, "Alpaca takes keys that were made up")
        say(f"validated: {body['message']}")
    else:
        expect(status == 503, f"validation answered {status}")
        say("validated: Alpaca cannot be asked from here (503), which is not called invalid")


def worker_rewraps() -> None:
    """A job that the worker alone can do, and that changes nothing where all is under the newest version."""
    bearer = token_of("operator")
    job = call("POST", f"/v1/keys/{KEY}/rewrap", bearer)
    give_up = time.monotonic() + WORKER_SECONDS
    while job["state"] not in ("done", "failed"):
        if time.monotonic() > give_up:
            fail(f"a rewrap is {job['state']} after {WORKER_SECONDS} s; docker compose ps, logs worker")
        time.sleep(0.5)
        job = call("GET", f"/v1/jobs/{job['id']}", bearer)
    expect(job["state"] == "done", f"a rewrap failed: {job['reason']}")
    say(f"rewrapped by the worker: {job['done']}")


def look_at_vault() -> None:
    """The UI, with the certificate of the authority that was made for it and no other."""
    context = ssl.create_default_context(cadata=compose("exec", "-T", "vault", "cat", "/vault/tls/ca.pem"))
    with urllib.request.urlopen(f"{VAULT}/ui/", timeout=10, context=context) as page:  # noqa: S310 - https
        expect(page.status == 200, "the Vault UI does not answer")
    say(f"Vault UI: {VAULT}/ui")


def token_of(role: str) -> dict[str, str]:
    """The header of a caller with this role."""
    token = compose("run", "--rm", "--no-deps", "-T", "provision", "token", "--role", role, "--subject", "smoke")
    return {"Authorization": f"Bearer {token}"}


def call(method: str, path: str, headers: dict[str, str], body: Any = None) -> Any:
    """One request that must succeed."""
    status, answered = answer(method, path, headers, body)
    expect(status < 300, f"{method} {path} answered {status}: {answered}")
    return answered


def answer(method: str, path: str, headers: dict[str, str], body: Any = None) -> tuple[int, Any]:
    """One request; its status and JSON."""
    data = None if body is None else json.dumps(body).encode()
    if method == "POST" and data is None:
        data = b""
    request = urllib.request.Request(f"{SERVICE}{path}", data, headers, method=method)  # noqa: S310 - http, see SERVICE
    if body is not None:
        request.add_header("Content-Type", "application/json")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as response:
            return response.status, json.loads(response.read() or "null")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read() or "null")


def compose(*arguments: str) -> str:
    """What a `docker compose` command prints."""
    done = subprocess.run(["docker", "compose", *arguments], capture_output=True, text=True, check=False)
    expect(done.returncode == 0, f"docker compose {' '.join(arguments)} failed: {done.stderr}")
    return done.stdout.strip()


def expect(holds: bool, otherwise: str) -> None:
    """Ends here where something is not as it is to be."""
    if not holds:
        fail(otherwise)


def fail(why: str) -> NoReturn:
    """Says why, and ends."""
    say(f"FAILED: {why}")
    sys.exit(1)


def say(line: str) -> None:
    """One line of output."""
    print(f"smoke: {line}", flush=True)


if __name__ == "__main__":
    main()
