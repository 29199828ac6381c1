"""The zeroing environment in real processes: what is in force in them, what they start, and what they refuse."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from service.memory.hardening import MARKER, prepared
from service.memory.shim import glibc_version
from tests.support import Stack, canary, findings

pytestmark = pytest.mark.skipif(glibc_version() is None, reason="for glibc alone")

COMMAND = str(Path(sys.executable).with_name("vault-credentials"))
HERE = Path(__file__).parent
OURS = ("LD_PRELOAD", "GLIBC_TUNABLES", "PYTHONMALLOC", "LD_BIND_NOW", MARKER)
IN_FORCE = (
    "import dataclasses, json; from service.memory.zeroing import in_force; "
    "print(json.dumps(dataclasses.asdict(in_force())))"
)


def run(
    *command: str, environment: Mapping[str, str] | None = None, given: str = ""
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, capture_output=True, text=True, input=given, timeout=120, env={**os.environ, **(environment or {})}
    )


def under_exec(
    *command: str, environment: Mapping[str, str] | None = None, given: str = ""
) -> "subprocess.CompletedProcess[str]":
    return run(COMMAND, "exec", "--", *command, environment=environment, given=given)


def variables_of(pid: int) -> dict[str, str]:
    """The environment that a process was started with."""
    pairs = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(each.split("=", 1) for each in pairs if "=" in each)


@pytest.fixture(scope="module")
def no_compiler(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the shim can't be had: a PATH without compilers, and a ziglang that does not work."""
    folder = tmp_path_factory.mktemp("no-compiler")
    (folder / "ziglang").mkdir()
    (folder / "ziglang" / "__init__.py").touch()
    return {"PATH": str(folder), "PYTHONPATH": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}


# --- what is in force ------------------------------------------------------------------------------------------------


def test_all_of_it_is_in_force_under_exec() -> None:
    found = json.loads(under_exec(sys.executable, "-c", IN_FORCE).stdout)
    assert (found["mode"], found["pymalloc_off"], found["bind_now"]) == ("shim", True, True)


def test_ziglang_does_where_there_is_no_other_compiler(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = under_exec(sys.executable, str(HERE / "freed_memory_process.py"), environment=environment)
    assert done.stdout.splitlines()[-1:] == ["stack"], done.stderr
    (library,) = (tmp_path / "cache/vault-credentials/zeroing").iterdir()
    assert library.suffix == ".so"


def test_without_any_compiler_the_tunables_are_in_force(no_compiler: dict[str, str]) -> None:
    found = json.loads(under_exec(sys.executable, "-c", IN_FORCE, environment=no_compiler).stdout)
    assert (found["mode"], found["pymalloc_off"], found["bind_now"]) == ("tunables", True, True)


@pytest.mark.parametrize(
    ("left_out", "lacking"),
    [
        ("LD_PRELOAD", {"mode": "none", "pymalloc_off": False}),
        ("PYTHONMALLOC", {"pymalloc_off": False}),
        ("LD_BIND_NOW", {"bind_now": False}),
    ],
)
def test_each_part_that_is_left_out_is_noticed(left_out: str, lacking: dict[str, object]) -> None:
    environment = prepared(os.environ, by="test").variables
    del environment[left_out]
    found = json.loads(subprocess.check_output([sys.executable, "-c", IN_FORCE], env=environment))
    whole = {"mode": "shim", "pymalloc_off": True, "bind_now": True}
    assert {name: found[name] for name in whole} == whole | lacking


def test_freed_memory_reads_as_zeros_however_it_was_had() -> None:
    """malloc, realloc, memalign, threads, Python's objects, the stack: see the program."""
    done = under_exec(sys.executable, str(HERE / "freed_memory_process.py"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "freed"
    assert done.stdout.splitlines()[-1] == "stack"


def test_the_same_program_finds_what_was_freed_without_it() -> None:
    done = run(sys.executable, str(HERE / "freed_memory_process.py"), environment={"PYTHONMALLOC": "malloc"})
    assert done.returncode == 1
    assert "AssertionError" in done.stderr


def test_a_library_that_others_can_write_is_not_loaded(tmp_path: Path) -> None:
    shows = "import sys; print('zero_on_free' in open('/proc/self/maps').read()); " + IN_FORCE
    cache = {"XDG_CACHE_HOME": str(tmp_path)}
    loaded, _ = under_exec(sys.executable, "-c", shows, environment=cache).stdout.splitlines()
    assert loaded == "True"
    (library,) = (tmp_path / "vault-credentials/zeroing").iterdir()
    library.chmod(0o660)
    loaded, found = under_exec(sys.executable, "-c", shows, environment=cache).stdout.splitlines()
    assert loaded == "False"
    assert json.loads(found)["mode"] == "tunables"


# --- exec ------------------------------------------------------------------------------------------------------------


def test_arguments_input_output_and_status_pass_through() -> None:
    script = 'cat; echo "$0|$1|$2|$3"; echo oops >&2; exit 7'
    done = under_exec("sh", "-c", script, "--help", "a b", "-x", "*", given="given\n")
    assert (done.stdout, done.stderr, done.returncode) == ("given\n--help|a b|-x|*\n", "oops\n", 7)


def test_it_is_the_same_process_and_signals_reach_it() -> None:
    script = "import os, sys, time; print(os.getpid(), flush=True); time.sleep(60)"
    with subprocess.Popen(
        [COMMAND, "exec", "--", sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as started:
        assert started.stdout is not None
        assert int(started.stdout.readline()) == started.pid
        started.send_signal(signal.SIGTERM)
        assert started.wait(30) == -signal.SIGTERM


def test_a_pipe_that_closes_ends_the_program_as_it_would_otherwise() -> None:
    """Python ignores SIGPIPE, and exec would hand that on."""
    assert under_exec("sh", "-c", 'kill -PIPE $$; echo "still there"').returncode == -signal.SIGPIPE


def test_a_command_that_is_not_there_is_said() -> None:
    done = under_exec("no-such-command")
    assert done.returncode == 2
    assert done.stderr == "vault-credentials: CMD: is not there, or what it names as its interpreter is not\n"


def test_the_library_collects_garbage_under_exec_and_not_otherwise(stack: Stack) -> None:
    script = (
        "import asyncio, gc; from service.composition import process_runtime\n"
        "async def main():\n"
        "    runtime = await process_runtime()\n"
        "    await asyncio.sleep(0.3)\n"
        "    print(gc.get_freeze_count() > 0, runtime.collector is not None and runtime.collector.runs > 0)\n"
        "asyncio.run(main())"
    )
    environment = {**stack.local.environment(), "CREDENTIALS_COLLECT_SECONDS": "0.05"}
    assert under_exec(sys.executable, "-c", script, environment=environment).stdout == "True True\n"
    # Python's own start-up may have set something aside, but not all that is imported by then.
    assert run(sys.executable, "-c", script, environment=environment).stdout.split()[1] == "False"


# --- the service -----------------------------------------------------------------------------------------------------


class Served:
    """A `serve` that answers."""

    def __init__(self, process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self._log = log

    def said(self, message: str) -> dict[str, object]:
        """The log line with this message."""
        lines = [json.loads(each) for each in self._log.read_text().splitlines()]
        (found,) = (each for each in lines if each["message"] == message)
        return dict(found)


@contextmanager
def served(
    stack: Stack, folder: Path, environment: Mapping[str, str] | None = None, command: tuple[str, ...] = (COMMAND,)
) -> Iterator[Served]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    log = folder / f"{uuid4()}.log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            [*command, "serve"],
            env={**os.environ, **stack.local.environment(), "CREDENTIALS_PORT": str(port), **(environment or {})},
            stdout=output,
            stderr=output,
        ) as process,
    ):
        url = f"http://127.0.0.1:{port}"
        try:
            give_up = time.monotonic() + 60
            while True:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < give_up, log.read_text()
                try:
                    httpx.get(f"{url}/healthz", trust_env=False)
                    break
                except httpx.TransportError:
                    time.sleep(0.1)
            yield Served(process, url, log)
        finally:
            process.terminate()
            process.wait(30)


@pytest.mark.parametrize("command", [(COMMAND,), (sys.executable, "-m", "service.cli")], ids=["script", "module"])
def test_serve_starts_itself_anew_with_all_of_it_in_force(
    command: tuple[str, ...], stack: Stack, tmp_path: Path
) -> None:
    # The marker is one that somebody left in the shell; it must not keep anything from happening.
    left_over = {MARKER: json.dumps({"process": "1:1", "by": "serve", "before": {}})}
    with served(stack, tmp_path, left_over, command) as service:
        line = service.said("zeroing")
        metrics = httpx.get(f"{service.url}/metrics", trust_env=False).text
        limits = Path(f"/proc/{service.process.pid}/limits").read_text()
        owner = Path(f"/proc/{service.process.pid}/environ").stat().st_uid
        preloaded = variables_of(service.process.pid) if os.geteuid() == 0 else {}
    assert (line["level"], line["zeroing"], line["not_in_force"]) == ("INFO", "shim", [])
    assert 'credentials_zeroing_info{bind_now="true",dumpable="false",mode="shim",pymalloc_off="true"} 1.0' in metrics
    assert re.search(r"Max core file size +0 +0 ", limits)
    assert owner == 0  # proc(5): what may not be dumped is root's to read
    if preloaded:
        assert "zero_on_free" in preloaded["LD_PRELOAD"]
        assert (preloaded["PYTHONMALLOC"], preloaded["LD_BIND_NOW"]) == ("malloc", "1")


def test_garbage_is_collected_after_a_request_that_carried_a_secret(stack: Stack, tmp_path: Path) -> None:
    def collections() -> float:
        found = re.search(
            r"^credentials_garbage_collections_total (\S+)$", httpx.get(f"{service.url}/metrics").text, re.MULTILINE
        )
        assert found is not None
        return float(found[1])

    with served(stack, tmp_path, {"CREDENTIALS_COLLECT_SECONDS": "60"}) as service:
        before = collections()
        assert collections() == before
        body = {"account_id": str(uuid4()), "credential_type": "alpaca", "api_key": canary(), "secret_key": canary()}
        token = {"Authorization": f"Bearer {stack.mint()}"}
        for headers, status in ((token, 201), ({}, 401)):
            answer = httpx.post(f"{service.url}/v1/credentials", json=body, headers=headers, trust_env=False)
            assert answer.status_code == status
            time.sleep(0.5)
        assert collections() == before + 2


def test_for_tests_memory_can_be_left_readable_and_that_is_said(stack: Stack, tmp_path: Path) -> None:
    with served(stack, tmp_path, {"CREDENTIALS_DUMPABLE": "true"}) as service:
        line = service.said("zeroing")
        variables = variables_of(service.process.pid)
    assert line["level"] == "WARNING"
    assert line["not_in_force"] == ["processes of the same user may read this one's memory"]
    assert "zero_on_free" in variables["LD_PRELOAD"]


def test_where_it_does_not_take_the_service_refuses_or_warns_as_it_is_told(stack: Stack, tmp_path: Path) -> None:
    """`python -I` ignores PYTHONMALLOC, so small objects would keep what they held."""
    isolated = (sys.executable, "-I", "-m", "service.cli")
    refused = run(*isolated, "serve", environment=stack.local.environment())
    assert refused.returncode == 2
    assert "small Python objects are not wiped" in refused.stderr
    assert "CREDENTIALS_ZEROING=warn" in refused.stderr
    with served(stack, tmp_path, {"CREDENTIALS_ZEROING": "warn"}, isolated) as service:
        line = service.said("zeroing")
    assert line["level"] == "WARNING"
    assert line["not_in_force"] == ["small Python objects are not wiped when they are freed"]


def test_where_there_is_no_shim_the_service_says_what_the_tunables_leave(
    stack: Stack, tmp_path: Path, no_compiler: dict[str, str]
) -> None:
    with served(stack, tmp_path, no_compiler) as service:
        line = service.said("zeroing")
    assert (line["zeroing"], line["not_in_force"]) == (
        "tunables",
        ["up to the last 8 bytes of a freed chunk are not wiped"],
    )


def test_a_library_that_is_given_is_used(stack: Stack, tmp_path: Path) -> None:
    made = prepared(os.environ, by="test").shim.path
    assert made is not None
    given = Path(shutil.copy(made, tmp_path / "given.so"))
    with served(stack, tmp_path, {"CREDENTIALS_ZEROING_SHIM": str(given), "CREDENTIALS_DUMPABLE": "true"}) as service:
        assert str(given) in Path(f"/proc/{service.process.pid}/maps").read_text()


def test_what_the_service_starts_inherits_nothing_of_it(tmp_path: Path) -> None:
    """By `run`, whose Postgres and Vault are its children."""
    said = tmp_path / "said"
    theirs = {"LD_BIND_NOW": "", "PYTHONMALLOC": "pymalloc"}  # which the children get, as they would have
    with (
        said.open("w") as output,
        subprocess.Popen(
            [COMMAND, "run", "--port", "0", "--state-dir", str(tmp_path / "state")],
            env={**os.environ, **theirs},
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        ) as launched,
    ):
        try:
            assert launched.stdout is not None
            assert any(line.startswith("eval ") for line in launched.stdout), said.read_text()
            pids = [json.loads(each.read_text())["pid"] for each in (tmp_path / "state").glob("*.pid.json")]
            assert len(pids) == 2
            inherited = [variables_of(pid) for pid in pids if os.access(f"/proc/{pid}/environ", os.R_OK)]
            maps = [Path(f"/proc/{pid}/maps").read_text() for pid in pids if os.access(f"/proc/{pid}/maps", os.R_OK)]
        finally:
            launched.send_signal(signal.SIGINT)
            launched.communicate(timeout=60)
    assert inherited
    assert not any("zero_on_free" in each for each in maps)
    for variables in inherited:
        assert {name: variables[name] for name in OURS if name in variables} in (theirs, {})
    assert '"zeroing": "shim"' in said.read_text()


DEBIANS = Path("/usr/bin/python3")


@pytest.mark.skipif(not DEBIANS.exists(), reason="there is no Python of the system's")
def test_a_python_that_is_not_position_independent_is_not_taken_for_one_with_another_malloc() -> None:
    """Debian's: by its own name for `malloc`, the library's looks like somebody else's."""
    program = (
        "import sys; sys.path[:0] = [sys.argv[1], sys.argv[2]]\n"
        "from service.memory.zeroing import has_foreign_malloc\n"
        "print(has_foreign_malloc())"
    )
    packages = next(each for each in sys.path if each.endswith("site-packages"))
    done = run(str(DEBIANS), "-c", program, str(Path(__file__).parents[2]), packages, environment={"LD_PRELOAD": ""})
    if "SyntaxError" in done.stderr or "ImportError" in done.stderr:
        pytest.skip("that Python is too old")
    assert (done.stdout.strip(), done.stderr) == ("False", "")


# --- doctor ----------------------------------------------------------------------------------------------------------


def doctor(environment: Mapping[str, str] | None = None) -> tuple[int, dict[str, str]]:
    """The exit status, and each finding: `verdict detail` by name."""
    done = run(COMMAND, "doctor", environment=environment)
    assert done.stderr == ""
    return done.returncode, findings(done.stdout)


def test_the_doctor_finds_a_good_machine_good(private_stack: Stack) -> None:
    status, found = doctor(private_stack.local.environment())
    assert status == 0
    assert found["zeroing"].startswith("ok under serve, run and exec all freed memory is wiped, by /")
    for name in (
        "small Python objects",
        "linker",
        "other processes",
        "vault",
        "transit",
        "postgres",
        "installation",
        "issuer",
        "rotator",
        "skew",
    ):
        assert found[name].startswith("ok "), found
    assert {"swap", "core dumps"} <= found.keys()


def test_the_doctor_takes_no_module_from_the_folder_it_is_called_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "dataclasses", "ctypes"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')\nraise SystemExit\n")
    monkeypatch.chdir(tmp_path)
    _status, found = doctor()
    assert found["zeroing"].startswith("ok ")
    assert not (tmp_path / "was-run").exists()


def test_the_doctor_needs_no_settings() -> None:
    status, found = doctor()
    assert status == 0
    assert found["settings"].startswith("untried")
    assert "no connection was tried" in found["settings"]


def test_the_doctor_says_what_is_missing_and_how_to_get_it(no_compiler: dict[str, str]) -> None:
    status, found = doctor(no_compiler)
    assert status == 0
    assert found["zeroing"].startswith(
        "weaker freed memory is wiped by glibc's tunables, but for up to the last 8 bytes"
    )
    assert "the extra `zeroing`" in found["zeroing"]


@pytest.mark.parametrize(
    ("trouble", "name", "said"),
    [
        ({"VAULT_ADDR": "http://127.0.0.1:1"}, "vault", "wrong Vault could not be reached"),
        ({"DATABASE_URL": "postgresql://u:p@127.0.0.1:1/d"}, "postgres", "wrong Postgres could not be reached"),
        ({"VAULT_ADDR": ""}, "settings", "wrong VAULT_ADDR: must begin with"),
        ({"CREDENTIALS_ZEROING_SHIM": "/nowhere.so"}, "zeroing", "wrong CREDENTIALS_ZEROING_SHIM"),
        ({"CREDENTIALS_DUMPABLE": "true"}, "other processes", "wrong of the same user may read"),
    ],
    ids=["vault", "postgres", "settings", "shim", "dumpable"],
)
def test_the_doctor_fails_when_something_is_wrong(trouble: dict[str, str], name: str, said: str, stack: Stack) -> None:
    status, found = doctor({**stack.local.environment(), **trouble})
    assert status == 1
    assert found[name].startswith(said), found
