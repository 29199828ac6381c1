"""Puts the process-wide protections in force: those that need an environment before exec, and those that don't.

The command re-executes itself once, with the environment that `zeroing.py` describes, and takes it out of `os.environ`
again, so that what it starts (Postgres, Vault, compilers) runs as it always would. A program that embeds the library is
left alone: it is started by `vault-credentials exec`.
"""

import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from service.errors import ConfigurationError, InvalidInput
from service.memory.shim import Shim, find_shim, glibc_version
from service.memory.zeroing import PERTURB, Zeroing, has_foreign_malloc, in_force, set_dumpable
from service.settings import ZeroingPolicy, load_process_settings

_log = logging.getLogger(__name__)

MARKER = "CREDENTIALS_ZEROING_STARTED"
"""JSON: which process was given the environment, by what, and what its variables were before."""

_CHANGED = ("LD_PRELOAD", "GLIBC_TUNABLES", "PYTHONMALLOC", "LD_BIND_NOW")
_PERTURB = "glibc.malloc.perturb"
_TCACHE_COUNT = "glibc.malloc.tcache_count"
# Without CPython's own allocator, glibc's cache for each thread does its work; its default of 7 chunks of a size is
# too small for that (json of 200 objects: a fifth faster with this). Chunks are wiped before they go there.
_TCACHE_CHUNKS = 4096


@dataclass(frozen=True, slots=True)
class Prepared:
    """An environment for a command that is to be started, and what it will lack."""

    variables: dict[str, str]
    shim: Shim


def prepared(environment: Mapping[str, str], *, by: str) -> Prepared:
    """`environment` with what has freed memory wiped: the shim, or glibc's tunables where it can't be had.

    What it has in LD_PRELOAD and GLIBC_TUNABLES already is kept, behind ours. `by` names who does it, in the marker.

    Raises:
        ConfigurationError: CREDENTIALS_ZEROING_SHIM is set and can't be used.
    """
    variables = dict(environment)
    forget_environment(variables)  # an earlier one's, or its "before" would be lost
    before = {name: variables.get(name) for name in _CHANGED}
    if glibc_version() is None:
        shim = Shim(None, "it is for Linux with glibc alone")
    elif has_foreign_malloc():
        # Ours would hand its chunks to glibc. Nor do glibc's tunables say anything to it.
        shim = Shim(None, "another malloc is linked or preloaded (LD_PRELOAD): take it out")
    else:
        shim = find_shim(environment)
    tunables = {} if shim.path else {_PERTURB: PERTURB, _TCACHE_COUNT: 0}
    if shim.path:
        others = [each for each in (before["LD_PRELOAD"] or "").replace(":", " ").split() if each != str(shim.path)]
        variables["LD_PRELOAD"] = ":".join((str(shim.path), *others))
        if _TCACHE_COUNT not in (before["GLIBC_TUNABLES"] or ""):
            tunables = {_TCACHE_COUNT: _TCACHE_CHUNKS}
    kept = [
        each for each in (before["GLIBC_TUNABLES"] or "").split(":") if each.partition("=")[0] not in {"", *tunables}
    ]
    variables["GLIBC_TUNABLES"] = ":".join((*kept, *(f"{name}={value}" for name, value in tunables.items())))
    if not variables["GLIBC_TUNABLES"]:
        del variables["GLIBC_TUNABLES"]
    variables["PYTHONMALLOC"] = "malloc"
    variables["LD_BIND_NOW"] = "1"
    variables[MARKER] = json.dumps({"process": _this_process(), "by": by, "before": before})
    return Prepared(variables, shim)


def harden(by: str) -> Zeroing:
    """For a process that is the service itself, at its very start: protections in force, core dumps off.

    Re-executes the same command line once, where that is needed and can help: then this call does not return, and the
    new program, with the same process id, arguments and open files, calls it again. What was added to `os.environ` is
    taken out. Settings: CREDENTIALS_ZEROING, CREDENTIALS_ZEROING_SHIM, CREDENTIALS_DUMPABLE.

    Raises:
        ConfigurationError: they did not take, where they could, and CREDENTIALS_ZEROING is not `warn`; or a setting
            can't be used.
    """
    settings = load_process_settings()
    before = in_force()
    # The marker is believed only about this very process, and only as to not trying again.
    if before.possible and not before.complete and _noted(os.environ).get("process") != _this_process():
        _reexecute(prepared(os.environ, by=by).variables)
    forget_environment(os.environ)
    if not settings.dumpable:
        set_dumpable(False)
    with suppress(ValueError, OSError):  # where a sandbox forbids even less
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    zeroing = in_force()
    if zeroing.possible and not zeroing.complete and settings.zeroing is ZeroingPolicy.REQUIRE:
        raise ConfigurationError(
            f"zeroing is not in force: {'; '.join(zeroing.missing)}. `vault-credentials doctor` says what is missing; "
            "CREDENTIALS_ZEROING=warn serves all the same"
        )
    return zeroing


def log_zeroing(zeroing: Zeroing) -> None:
    """One line at start-up that says what is in force, and what is not."""
    level = logging.INFO if zeroing.complete and not zeroing.dumpable else logging.WARNING
    _log.log(level, "zeroing", extra=zeroing.line)


def execute(command: Sequence[str]) -> NoReturn:
    """Becomes `command`, found on PATH, under the environment of `prepared`. Arguments, open files, working folder,
    process id are as they are; so nothing is between it and whoever waits for it or sends it signals.

    Where the platform can't have the protections it is started all the same, after a warning on stderr.

    Raises:
        ConfigurationError: as `prepared`; or neither shim nor tunables can be had here and CREDENTIALS_ZEROING is not
            `warn`.
        InvalidInput: there is no such command, or it can't be run.
    """
    settings = load_process_settings()
    made = prepared(os.environ, by="exec")
    zeroing = in_force()
    if not zeroing.possible:
        print(f"vault-credentials: freed memory is not wiped here: {made.shim.problem}", file=sys.stderr)  # noqa: T201
    elif has_foreign_malloc():
        if settings.zeroing is ZeroingPolicy.REQUIRE:
            raise ConfigurationError(f"zeroing can't be in force: {made.shim.problem}")
        print(f"vault-credentials: freed memory will not be wiped: {made.shim.problem}", file=sys.stderr)  # noqa: T201
    # Python ignores these, and what is ignored stays so through exec (execve(2)).
    for each in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(each, signal.SIG_DFL)
    sys.stdout.flush()
    sys.stderr.flush()
    problem = "cannot be run"
    try:
        os.execvpe(command[0], list(command), made.variables)  # noqa: S606 - the user's own command, no shell
    except FileNotFoundError:
        problem = "is not there, or what it names as its interpreter is not"
    except OSError:
        pass
    raise InvalidInput("CMD", problem)


def started_by_exec(environment: Mapping[str, str] | None = None) -> bool:
    """Whether this process, or one that it descends from, was started by `vault-credentials exec`."""
    return _noted(os.environ if environment is None else environment).get("by") == "exec"


def forget_environment(environment: MutableMapping[str, str]) -> None:
    """Puts back what `prepared` changed, so that programs started from here don't inherit it."""
    before = _noted(environment).get("before")
    if isinstance(before, dict):
        for name in _CHANGED:
            if isinstance(value := before.get(name), str):
                environment[name] = value
            else:
                environment.pop(name, None)
    environment.pop(MARKER, None)


def _noted(environment: Mapping[str, str]) -> dict[str, Any]:
    """The marker. Whoever sets the environment can write one, so nothing that matters may depend on it."""
    try:
        noted = json.loads(environment.get(MARKER) or "{}")
    except (ValueError, RecursionError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _this_process() -> str:
    """Its id and when it was started, which exec leaves alone: a variable left over from another one never fits."""
    try:
        started = Path("/proc/self/stat").read_text("utf-8").rpartition(")")[2].split()[19]
    except OSError:
        started = ""
    return f"{os.getpid()}:{started}"


def _reexecute(environment: Mapping[str, str]) -> None:
    if not sys.executable:  # Python inside another program: there is no command line to repeat
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606 - our own command line
