"""What is run while this is installed or its image is built comes by hashes that uv.lock has."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[2]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
LOCK = tomllib.loads((CHECKOUT / "uv.lock").read_text())
LOCKED: dict[str, dict[str, Any]] = {each["name"]: each for each in LOCK["package"]}
INSTALL = (CHECKOUT / "scripts" / "install").read_text()
DOCKERFILE = (CHECKOUT / "Dockerfile").read_text()
EXTRA = '${EXTRA:+--extra "$EXTRA"}'
OUR_OWN = "--no-build-isolation-package vault-credentials"


def needs(name: str) -> set[str]:
    """This package and all that it needs."""
    found: set[str] = set()
    wanted = {name}
    while wanted:
        found |= wanted
        wanted = {each["name"] for one in wanted for each in LOCKED[one].get("dependencies", [])} - found
    return found


def commands(text: str) -> list[str]:
    """Each `uv sync` in it, with its options."""
    return [each.strip() for each in re.findall(r"(?:/uv/bin/uv|\"\$UV\") sync ([^\\\n&]+)", text)]


def test_every_locked_package_is_of_pypi_and_has_hashes() -> None:
    for name, package in LOCKED.items():
        if name == "vault-credentials":
            continue
        assert package["source"] == {"registry": "https://pypi.org/simple"}
        files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
        assert files, name
        for file in files:
            assert re.fullmatch(r"sha256:[0-9a-f]{64}", file["hash"]), name
            assert file["url"].startswith("https://files.pythonhosted.org/"), name


def test_what_builds_our_package_is_locked_and_nothing_else_builds_it() -> None:
    (required,) = PROJECT["build-system"]["requires"]
    backend = re.split(r"[<>=]", required)[0]
    group = {re.split(r"[<>=]", each)[0] for each in PROJECT["dependency-groups"]["build"]}
    assert group == {backend, "editables"}
    assert {"include-group": "build"} in PROJECT["dependency-groups"]["dev"]
    for name in needs(backend):
        assert LOCKED[name]["wheels"], f"{name} would be built itself"
    assert commands(INSTALL) == [f"--frozen {OUR_OWN} $quiet"]
    assert commands(DOCKERFILE) == [
        "--frozen --no-default-groups --group build --no-install-project",
        f"--frozen --no-default-groups --group build {EXTRA} --no-editable {OUR_OWN}",
        f"--frozen --no-default-groups {EXTRA} --no-editable",  # takes the group away again
    ]


def test_uv_itself_is_installed_by_its_hash_however_it_is_got() -> None:
    printed = subprocess.run(
        [sys.executable, "scripts/unpack_uv.py", "--requirement"], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert printed.returncode == 0, printed.stderr
    name, *hashes = printed.stdout.split()
    assert name == f"uv=={LOCKED['uv']['version']}"
    assert sorted(hashes) == sorted(f"--hash={wheel['hash']}" for wheel in LOCKED["uv"]["wheels"])
    assert re.findall(r"^UV_VERSION=(\S+)", INSTALL, re.MULTILINE) == [LOCKED["uv"]["version"]]
    code = [line.partition(" #")[0] for line in INSTALL.splitlines() if not line.lstrip().startswith("#")]
    installs = [line for line in code if "pip install" in line]
    assert len(installs) == 1
    assert "--require-hashes" in installs[0]
    assert "--only-binary :all:" in installs[0]  # what builds a source has no hash


@pytest.mark.parametrize("python", ["without pip", "without venv"])
def test_a_uv_that_uv_lock_does_not_know_is_not_installed(tmp_path: Path, python: str) -> None:
    # A copy of the checkout whose uv.lock has other hashes, and addresses at which nothing answers.
    (tmp_path / "scripts").mkdir()
    for name in ("install", "unpack_uv.py"):
        copied = tmp_path / "scripts" / name
        copied.write_text((CHECKOUT / "scripts" / name).read_text())
        copied.chmod(0o755)
    lock = re.sub(r"sha256:[0-9a-f]{8}", "sha256:00000000", (CHECKOUT / "uv.lock").read_text())
    (tmp_path / "uv.lock").write_text(lock.replace("https://files.pythonhosted.org/", "http://127.0.0.1:1/"))
    log = tmp_path / "log"
    interpreter = tmp_path / "python"
    # Stands for a Python with or without pip; its pip notes how it is called, and fails as on a wrong hash.
    interpreter.write_text(
        f'#!/bin/sh\ncase "$*" in\n*ensurepip*) exit 1 ;;\n"-m pip --version") exit {int(python == "without pip")} ;;\n'
        f'"-m pip install"*) echo "$*" >> {log}; exit 1 ;;\nesac\nexec {sys.executable} "$@"\n'
    )
    interpreter.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(interpreter), "PATH": "/usr/bin:/bin"}
    refused = subprocess.run(
        [str(tmp_path / "scripts" / "install")], env=environment, capture_output=True, text=True, timeout=120
    )
    assert refused.returncode == 1
    assert "uv could not be had" in refused.stderr
    assert not list((tmp_path / ".tools").rglob("bin/uv"))
    assert log.exists() == (python == "without venv")
    if log.exists():
        called = log.read_text()
        assert "--require-hashes -r .tools/uv-" in called
        (written,) = (tmp_path / ".tools").glob("uv-*.txt")
        assert "--hash=sha256:00000000" in written.read_text()
