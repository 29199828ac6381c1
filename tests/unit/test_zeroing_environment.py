"""The environment that freed memory is wiped under, and which library is let into the process for it."""

import gc
import json
import os
import resource
import shutil
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service.errors import ConfigurationError, InvalidInput
from service.memory import hardening, shim, zeroing
from service.memory.hardening import MARKER, forget_environment, prepared, started_by_exec
from service.memory.shim import Shim, find_shim, glibc_version, unsafe

pytestmark = pytest.mark.skipif(glibc_version() is None, reason="for glibc alone")

LIBRARY = Path("/cache/ours.so")


@pytest.fixture
def with_shim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardening, "find_shim", lambda _environment: Shim(LIBRARY))


@pytest.fixture
def without_shim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardening, "find_shim", lambda _environment: Shim(None, "no compiler"))


@pytest.mark.usefixtures("with_shim")
def test_what_the_user_preloads_is_kept_behind_the_shim() -> None:
    made = prepared(
        {"LD_PRELOAD": "/their/a.so /their/b.so", "GLIBC_TUNABLES": "glibc.rtld.nns=3"}, by="test"
    ).variables
    assert made["LD_PRELOAD"] == "/cache/ours.so:/their/a.so:/their/b.so"
    assert made["GLIBC_TUNABLES"].split(":")[0] == "glibc.rtld.nns=3"
    assert "perturb" not in made["GLIBC_TUNABLES"]
    assert (made["PYTHONMALLOC"], made["LD_BIND_NOW"]) == ("malloc", "1")


@pytest.mark.usefixtures("with_shim")
def test_the_users_own_cache_size_is_kept() -> None:
    theirs = "glibc.malloc.tcache_count=9"
    assert prepared({"GLIBC_TUNABLES": theirs}, by="test").variables["GLIBC_TUNABLES"] == theirs


@pytest.mark.usefixtures("without_shim")
def test_without_a_shim_the_tunables_are_set_and_nothing_is_preloaded() -> None:
    theirs = {"LD_PRELOAD": "/their/a.so", "GLIBC_TUNABLES": "glibc.malloc.perturb=1:glibc.rtld.nns=3"}
    made = prepared(theirs, by="test").variables
    assert made["LD_PRELOAD"] == "/their/a.so"
    assert made["GLIBC_TUNABLES"] == "glibc.rtld.nns=3:glibc.malloc.perturb=165:glibc.malloc.tcache_count=0"


@pytest.mark.usefixtures("with_shim")
@pytest.mark.parametrize(
    "theirs",
    [
        {},
        {"LD_PRELOAD": "/their/a.so", "PYTHONMALLOC": "debug", "GLIBC_TUNABLES": "glibc.rtld.nns=3", "LD_BIND_NOW": ""},
    ],
)
def test_forgetting_puts_back_exactly_what_was_there(theirs: dict[str, str]) -> None:
    before = {"PATH": "/bin", **theirs}
    twice = prepared(prepared(before, by="exec").variables, by="serve").variables
    forget_environment(twice)
    assert twice == before


@pytest.mark.usefixtures("with_shim")
def test_the_marker_tells_who_started_it_and_nonsense_tells_nothing() -> None:
    assert started_by_exec(prepared({}, by="exec").variables)
    assert not started_by_exec(prepared({}, by="serve").variables)
    for nonsense in ("", "1", "[]", "exec", '{"by": 1, "before": "x"}'):
        environment = {MARKER: nonsense, "PATH": "/bin"}
        assert not started_by_exec(environment)
        forget_environment(environment)
        assert environment == {"PATH": "/bin"}


def test_another_malloc_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shim would hand jemalloc's chunks to glibc, which ends the process."""
    monkeypatch.setattr(hardening, "has_foreign_malloc", lambda: True)
    made = prepared({"LD_PRELOAD": "/usr/lib/libjemalloc.so"}, by="test")
    assert made.variables["LD_PRELOAD"] == "/usr/lib/libjemalloc.so"
    assert "another malloc" in made.shim.problem


# --- re-executing ----------------------------------------------------------------------------------------------------


class Executed(Exception):
    """In the place of exec, which would not return."""


@pytest.fixture
def this_process(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """`harden` in this process, which stays as it is; its environment."""

    def execve(_program: str, _arguments: list[str], environment: dict[str, str]) -> None:
        environment_after.update(environment)
        raise Executed

    environment_after: dict[str, str] = {}
    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    monkeypatch.setattr(hardening, "set_dumpable", lambda _allowed: None)
    for name in (MARKER, "LD_PRELOAD", "PYTHONMALLOC", "LD_BIND_NOW", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    return environment_after


@pytest.mark.usefixtures("with_shim")
def test_it_is_tried_once_and_then_refused_by_name(
    this_process: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Executed):
        hardening.harden("serve")
    monkeypatch.setenv(MARKER, this_process[MARKER])  # as after an exec that changed nothing
    with pytest.raises(ConfigurationError, match=r"freed memory is not wiped.*CREDENTIALS_ZEROING=warn"):
        hardening.harden("serve")
    monkeypatch.setenv(MARKER, this_process[MARKER])
    monkeypatch.setenv("CREDENTIALS_ZEROING", "warn")
    assert not hardening.harden("serve").complete


@pytest.mark.usefixtures("with_shim", "this_process")
@pytest.mark.parametrize("left_over", ["1", json.dumps({"process": "1:1", "by": "serve", "before": {}})])
def test_a_marker_of_another_process_skips_nothing(left_over: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARKER, left_over)
    with pytest.raises(Executed):
        hardening.harden("serve")


@pytest.mark.usefixtures("this_process")
@pytest.mark.parametrize(("platform", "libc"), [("linux", "another"), ("darwin", "macOS")])
def test_musl_and_macos_are_told_and_run_all_the_same(
    platform: str, libc: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    for module in (hardening, shim, zeroing):
        monkeypatch.setattr(module, "glibc_version", lambda: None)
    found = hardening.harden("serve")
    assert (found.mode, found.possible, found.libc) == ("none", False, libc)
    hardening.log_zeroing(found)
    (line,) = caplog.records
    assert line.levelname == "WARNING"
    assert "freed memory is not wiped" in line.__dict__["not_in_force"]
    assert "LD_PRELOAD" not in prepared({}, by="exec").variables


def test_a_policy_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_ZEROING", "off")
    with pytest.raises(ConfigurationError, match="CREDENTIALS_ZEROING"):
        hardening.harden("serve")


def test_exec_of_what_is_not_there_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    no_program = tmp_path / "text"
    no_program.write_text("text")
    for command, said in (("no-such-command", "is not there"), (str(no_program), "cannot be run")):
        with pytest.raises(InvalidInput, match=said):
            hardening.execute([command])


# --- the library -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library, in a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        found = find_shim(dict(os.environ))
    assert found.path is not None, found.problem
    return found.path


def test_the_library_and_its_folder_are_closed_to_others(built: Path) -> None:
    assert stat.S_IMODE(built.stat().st_mode) == 0o600
    assert stat.S_IMODE(built.parent.stat().st_mode) == 0o700
    assert list(built.parent.iterdir()) == [built]
    assert unsafe(built) == ""


def test_it_is_built_once(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(built.parents[2]))
    monkeypatch.setattr(shim, "_compiled", lambda *_: pytest.fail("it was compiled again"))
    assert find_shim({}).path == built


def copy_of(built: Path, folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    return Path(shutil.copy(built, folder / "copy.so"))


def group_may_write_it(library: Path) -> None:
    library.chmod(0o660)


def anybody_may_write_it(library: Path) -> None:
    library.chmod(0o602)


def its_folder_is_open(library: Path) -> None:
    library.parent.chmod(0o777)


def its_folder_is_sticky_and_open(library: Path) -> None:
    library.parent.chmod(0o1777)


def a_folder_above_is_open(library: Path) -> None:
    library.parent.parent.chmod(0o777)


def it_is_a_link(library: Path) -> None:
    library.rename(library.with_name("real.so"))
    library.symlink_to("real.so")


def it_is_a_folder(library: Path) -> None:
    library.unlink()
    library.mkdir()


def it_is_gone(library: Path) -> None:
    library.unlink()


@pytest.mark.parametrize(
    "spoilt",
    [
        group_may_write_it,
        anybody_may_write_it,
        its_folder_is_open,
        its_folder_is_sticky_and_open,
        a_folder_above_is_open,
        it_is_a_link,
        it_is_a_folder,
        it_is_gone,
    ],
    ids=lambda spoilt: spoilt.__name__,
)
def test_a_library_that_others_could_have_put_there_is_refused(
    spoilt: Callable[[Path], None], built: Path, tmp_path: Path
) -> None:
    library = copy_of(built, tmp_path / "folder")
    given = {"CREDENTIALS_ZEROING_SHIM": str(library)}
    assert find_shim(given).path == library
    spoilt(library)
    assert unsafe(library)
    with pytest.raises(ConfigurationError, match="CREDENTIALS_ZEROING_SHIM") as caught:
        find_shim(given)
    assert str(library) not in str(caught.value)


def test_a_library_of_another_user_is_refused(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = copy_of(built, tmp_path / "folder")
    if os.geteuid() == 0:
        os.chown(library, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert "another user" in unsafe(library)


def test_a_cached_library_that_others_can_write_is_not_preloaded_and_it_is_said(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cached = tmp_path / built.relative_to(built.parents[2])
    cached.parent.mkdir(parents=True, mode=0o700)
    shutil.copy(built, cached)
    cached.chmod(0o660)
    made = prepared(os.environ, by="test")
    assert str(cached) not in made.variables.get("LD_PRELOAD", "")
    assert "glibc.malloc.perturb=165" in made.variables["GLIBC_TUNABLES"]
    assert f"{cached} can be written by other users" in made.shim.problem


@pytest.mark.parametrize(
    ("content", "why"), [(b"\x7fELF nothing of ours", "does not load"), (None, "is another library")]
)
def test_a_given_library_that_does_not_do_is_said(content: bytes | None, why: str, tmp_path: Path) -> None:
    library = tmp_path / "given.so"
    if content is None:
        import _ctypes

        shutil.copy(_ctypes.__file__, library)
    else:
        library.write_bytes(content)
    library.chmod(0o600)
    with pytest.raises(ConfigurationError, match=why):
        find_shim({"CREDENTIALS_ZEROING_SHIM": str(library)})


def test_a_path_that_cannot_be_written_into_ld_preload_is_refused(built: Path, tmp_path: Path) -> None:
    for name in ("with space", "with:colon"):
        library = copy_of(built, tmp_path / name)
        with pytest.raises(ConfigurationError, match="a space or a colon"):
            find_shim({"CREDENTIALS_ZEROING_SHIM": str(library)})


def test_without_any_compiler_it_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(shim, "find_spec", lambda _name: None)
    found = find_shim({"PATH": str(tmp_path)})
    assert found.path is None
    assert "the extra `zeroing`" in found.problem
    made = prepared({"PATH": str(tmp_path)}, by="test")
    assert "glibc.malloc.perturb=165" in made.variables["GLIBC_TUNABLES"]


@pytest.mark.parametrize("mode", [0o770, 0o777])
def test_no_compiler_runs_in_a_folder_that_others_can_replace(
    mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    os.chown(cache, -1, 12345 if os.geteuid() == 0 else -1)
    cache.chmod(mode)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(shim, "_compiled", lambda *_: pytest.fail("it was compiled"))
    assert "is in a folder that other users can replace" in find_shim(dict(os.environ)).problem


def test_the_compiler_is_told_nothing_of_the_services_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(shim, "find_spec", lambda _name: None)
    compiler = tmp_path / "cc"
    compiler.write_text(f"#!/bin/sh\n/usr/bin/env > {tmp_path}/told\nexit 1\n")
    compiler.chmod(0o700)
    find_shim({"PATH": str(tmp_path), "DATABASE_URL": "postgresql://told", "CREDENTIALS_VAULT_SECRET_ID": "told"})
    told = (tmp_path / "told").read_text()
    assert "PATH=" in told
    assert "told" not in told.replace(str(tmp_path), "")


def test_a_given_library_is_named_by_where_it_is_and_not_by_a_link_that_can_change(built: Path, tmp_path: Path) -> None:
    copy = copy_of(built, tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    assert find_shim({"CREDENTIALS_ZEROING_SHIM": str(tmp_path / "link" / "copy.so")}).path == copy


def test_a_compiler_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(shim, "find_spec", lambda _name: None)
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(0o700)
    found = find_shim({"PATH": str(tmp_path)})
    assert found.problem == "it could not be compiled by cc"
    assert not list((tmp_path / "cache/vault-credentials/zeroing").iterdir())


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert "cannot be written" in find_shim(dict(os.environ)).problem


def test_nothing_is_claimed_of_this_process() -> None:
    """The tests run under no protection, and a variable that is set now does not make it look otherwise."""
    gc.collect()
    os.environ["LD_PRELOAD"], os.environ["PYTHONMALLOC"] = "/cache/ours.so", "malloc"
    try:
        found = zeroing.in_force()
    finally:
        del os.environ["LD_PRELOAD"], os.environ["PYTHONMALLOC"]
    assert (found.mode, found.pymalloc_off, found.complete) == ("none", False, False)
