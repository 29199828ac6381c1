"""Settings in files that others may read or change: what the doctor and the commands' start say of them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.localstack.state_dir import free_port
from tests.support import Stack

COMMAND = [sys.executable, "-m", "service.cli"]
CHANGED = "other users of this machine may change it (chmod 600)"


@pytest.fixture
def environment(stack: Stack, tmp_path: Path) -> dict[str, str]:
    """The stack's, with the database's URL in a file that everybody may change, and the whole for a worker too."""
    folder = tmp_path / "settings"
    folder.mkdir(mode=0o700)
    given = stack.local.environment()
    for name in ("DATABASE_URL", "CREDENTIALS_ROTATOR_DATABASE_URL"):
        if name in given:
            (folder / name).write_text(given.pop(name))
            (folder / name).chmod(0o666)
    assert (folder / "DATABASE_URL").exists()
    kept = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    return {**kept, **given, "CREDENTIALS_SETTINGS_DIR": str(folder), "CREDENTIALS_PORT": str(free_port())}


def test_the_doctor_names_a_file_that_others_may_change_as_a_weakness(environment: dict[str, str]) -> None:
    done = subprocess.run([*COMMAND, "doctor"], env=environment, capture_output=True, text=True, timeout=120)
    assert f"weaker  file DATABASE_URL: {CHANGED}" in done.stdout.splitlines()
    assert "ok      postgres: " in done.stdout
    assert Path(environment["CREDENTIALS_SETTINGS_DIR"], "DATABASE_URL").read_text() not in done.stdout


def test_the_start_of_the_service_warns_of_it(environment: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as output, subprocess.Popen([*COMMAND, "serve"], env=environment, stderr=output) as process:
        give_up = time.monotonic() + 90
        lines: list[dict[str, object]] = []
        while not lines and process.poll() is None and time.monotonic() < give_up:
            time.sleep(0.1)
            whole = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
            lines = [json.loads(line) for line in whole if '"DATABASE_URL"' in line]
        process.send_signal(signal.SIGKILL)
    said = {line["file"]: (line["level"], line["problem"]) for line in lines}
    assert said["DATABASE_URL"] == ("WARNING", CHANGED), log.read_text()
    assert Path(environment["CREDENTIALS_SETTINGS_DIR"], "DATABASE_URL").read_text() not in log.read_text()
