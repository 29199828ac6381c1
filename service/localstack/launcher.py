"""`vault-credentials run`: the local stack and the service on it, in one process, until it is told to stop."""

import errno
import json
import os
import shlex
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import typer

from service.app import create_app
from service.errors import ConfigurationError
from service.localstack.stack import LocalStack, local_stack
from service.localstack.state_dir import StateDir
from service.memory.hardening import log_zeroing
from service.memory.zeroing import in_force
from service.observability import configure_logging
from service.providers.registry import credential_types
from service.server import serve, tcp_socket
from service.settings import load_provider_settings


def run(port: int, state_dir: Path, progress: Callable[[str], None]) -> None:
    """Starts everything, prints how to use it, serves; returns after Ctrl-C or SIGTERM, when all of it is stopped.

    Port 0 takes any free one. Raises as `local_stack`; ConfigurationError where the port is taken. A stack that is
    running in the folder already has the port too, most of the time: the folder is what is asked about first.
    """
    _stop_on_signals()
    state = StateDir(state_dir)
    state.check_owner()
    state.check_unused()
    types = sorted(credential_types(load_provider_settings()))
    listener = _bound(port)
    try:
        with listener, local_stack(state_dir, os.environ, progress, types) as stack:
            port = listener.getsockname()[1]
            stack.note(port=port)
            settings = stack.settings(host="127.0.0.1", port=port)
            configure_logging(settings.log_level)
            log_zeroing(in_force())
            serve(
                create_app(settings, collect=True),
                sockets=[listener],
                when_ready=lambda: typer.echo(banner(stack, port)),
            )
    except KeyboardInterrupt:
        pass
    progress(f"stopped; everything is kept in {state.path}")


def banner(stack: LocalStack, port: int) -> str:
    """How to use a stack that runs: the whole of it can be pasted into sh or bash, in whatever folder.

    What is said between the commands is in comments without quotes, which not every interactive shell skips over.
    """
    url = f"http://127.0.0.1:{port}/v1/credentials"
    program = shlex.quote(_program())
    folder = shlex.quote(str(stack.state_dir))
    body = json.dumps(
        {
            "account_id": "7a5cd1b4-3d0b-4c5e-9f4e-6f0b4f5f9a10",
            "credential_type": "alpaca",
            "api_key": "PKEXAMPLE",
            "secret_key": "example-secret",
        }
    )
    authorized = '-H "Authorization: Bearer $TOKEN"'
    newline = "-w '\\n'"
    first_id = 'python3 -c \'import json, sys; print(json.load(sys.stdin)["credentials"][0]["id"])\''
    return "\n".join(
        (
            "",
            f"# vault-credentials is running at http://127.0.0.1:{port} and is stopped by Ctrl-C",
            _comment(f"state folder: {stack.state_dir}"),
            _comment(f"Vault:        {stack.vault.address}"),
            _comment(f"Postgres:     {stack.postgres_address}"),
            "",
            "# A token, for an hour:",
            f"TOKEN=$({program} token --state-dir {folder} --role user --subject alice)",
            "",
            "# Store, list, get:",
            f"curl -sS {url} {authorized} -H 'Content-Type: application/json' -d '{body}' {newline}",
            f"curl -sS {url} {authorized} {newline}",
            f"ID=$(curl -sS {url} {authorized} | {first_id})",
            f"curl -sS {url}/$ID {authorized} {newline}",
            "",
            "# Addresses and logins, for other programs and for vault and psql:",
            f'eval "$({program} env --state-dir {folder})"',
            "",
        )
    )


def _comment(text: str) -> str:
    """One line, whatever a folder is called."""
    return "# " + "".join(character if character.isprintable() else "?" for character in text)


def _program() -> str:
    """This command, so that it works from any folder: the installed script, else `python -m`."""
    script = Path(sys.argv[0])
    if script.name == "vault-credentials" and script.exists():
        return str(script.absolute())
    return str(Path(sys.executable).with_name("vault-credentials"))


def _bound(port: int) -> socket.socket:
    """The service's port, taken before anything is started. It refuses connections until the service listens."""
    listener = tcp_socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        why = {
            errno.EADDRINUSE: "is taken by another program",
            errno.EACCES: "is not allowed to this user",
        }.get(error.errno or 0, "cannot be used")
        raise ConfigurationError(f"port {port} {why}: choose another with --port (make run PORT=…)") from None
    return listener


def _stop_on_signals() -> None:
    """Ctrl-C, SIGTERM and a closed terminal all end in one orderly stop, which a second one does not disturb."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(_number: int, _frame: FrameType | None) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for each in signals:
        signal.signal(each, stop)
