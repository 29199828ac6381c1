"""The compiled `zero_on_free.c`: built once for each machine and user, and looked at before it is ever preloaded.

A preloaded library runs in the process that holds the secrets, so one that somebody else could have written is refused.
"""

import ctypes
import grp
import hashlib
import os
import platform
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import platformdirs

from service.errors import ConfigurationError

_SOURCE = Path(__file__).with_name("zero_on_free.c")
# Nothing lazy about the library itself; and `free` and `realloc` are not to be taken for the compiler's built-in ones.
_FLAGS = ("-std=gnu11", "-O2", "-fPIC", "-shared", "-fno-builtin", "-Wl,-z,now", "-Wl,-z,relro")
_ZIG_FLAGS = ("-fno-sanitize=all",)  # zig's default, which needs a runtime of its own
_COMPILE_SECONDS = 120
_COMPILERS_VARIABLES = frozenset({"PATH", "PYTHONPATH", "HOME", "TMPDIR"})
_SETTING = "CREDENTIALS_ZEROING_SHIM"

WIPE_STACK = "vc_wipe_stack"
"""What the library exports beside `free` and `realloc`, and by which it is known."""


@dataclass(frozen=True, slots=True)
class Shim:
    """Where the library is, or why there is none."""

    path: Path | None
    problem: str = ""


def glibc_version() -> tuple[int, int] | None:
    """Of the C library that this process uses; None where that isn't glibc (musl, macOS)."""
    if sys.platform != "linux":
        return None
    try:
        version = ctypes.CDLL(None).gnu_get_libc_version
    except AttributeError:
        return None
    version.restype = ctypes.c_char_p
    major, minor = version().split(b".")[:2]
    return int(major), int(minor)


def find_shim(environment: Mapping[str, str]) -> Shim:
    """The library to preload on this machine: the one that CREDENTIALS_ZEROING_SHIM names, else the one in the user's
    cache folder, compiled now if it isn't there yet (a tenth of a second; some seconds with ziglang).

    Guarantees: what is returned is a file that only this user or root can write or put another in the place of, and it
    could be loaded into this process.

    Raises:
        ConfigurationError: CREDENTIALS_ZEROING_SHIM is set and can't be used. The message says why, and no path.
    """
    given = environment.get(_SETTING)
    if given:
        path, problem = _examined(Path(given).absolute())
        if problem:
            raise ConfigurationError(f"{_SETTING}: the library {problem}")
        return Shim(path)
    if sys.platform != "linux" or glibc_version() is None:
        return Shim(None, "it is for Linux with glibc alone")
    try:
        path = _cached(environment)
    except _CannotBeBuilt as error:
        return Shim(None, str(error))
    path, problem = _examined(path)
    return Shim(None, f"{path} {problem}") if problem else Shim(path)


def _examined(path: Path) -> tuple[Path, str]:
    """The library's own path, and why it can't be used. Links are followed once: what is looked at is what is loaded,
    whatever a link of somebody else's says a moment later.
    """
    if path.is_symlink():
        return path, "is a symbolic link"
    try:
        path = path.resolve(strict=True)
    except OSError as error:
        return path, f"cannot be looked at ({error.strerror})"
    return path, unsafe(path) or unloadable(path)


def unsafe(path: Path) -> str:
    """Why this file must not be preloaded, as the end of a sentence; empty where it may be.

    The file: regular, no link, this user's or root's, writable by no one else. Its folder: see `unsafe_folder`.
    (OpenSSH asks about the same of authorized_keys, "StrictModes".)
    """
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            return "is a symbolic link" if stat.S_ISLNK(found.st_mode) else "is not a file"
        if found.st_uid not in (0, os.geteuid()):
            return "belongs to another user, or its folder does"
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return "can be written by other users, or its folder can"
    except OSError as error:
        return f"cannot be looked at ({error.strerror})"
    return unsafe_folder(path.parent)


def unsafe_folder(folder: Path) -> str:
    """Why nothing in this folder is to be run or preloaded, as the end of a sentence; empty where it may be.

    The folder: this user's or root's, writable by no one else. Those above it likewise, but that they may be sticky
    (/tmp), or writable by root's group or by a group of this user alone.
    """
    trusted = (0, os.geteuid())
    try:
        folder = folder.resolve(strict=True)
        found = folder.stat()
        if found.st_uid not in trusted:
            return "belongs to another user, or its folder does"
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return "can be written by other users, or its folder can"
        for place in folder.parents:
            found = place.stat()
            trusts_group = found.st_gid == 0 or _is_private(found.st_gid)
            open_to_others = found.st_mode & (stat.S_IWOTH if trusts_group else stat.S_IWGRP | stat.S_IWOTH)
            if found.st_uid not in trusted or (open_to_others and not found.st_mode & stat.S_ISVTX):
                return "is in a folder that other users can replace"
    except OSError as error:
        return f"cannot be looked at ({error.strerror})"
    return ""


def _is_private(group_id: int) -> bool:
    """Whether this is the group that many systems make for each user, who is then alone in it (pam_umask(8),
    "usergroups": the same name and the same number).
    """
    user_id = os.geteuid()
    try:
        user, group = pwd.getpwuid(user_id), grp.getgrgid(group_id)
    except KeyError:
        return False
    return group_id == user_id == user.pw_gid and user.pw_name == group.gr_name and set(group.gr_mem) <= {user.pw_name}


def unloadable(path: Path) -> str:
    """Why the loader would not take it, as the end of a sentence; empty where it does. Loads it, so ask `unsafe` first.

    Raises nothing. Loaded this way its `free` is nobody's: only a preloaded one is used.
    """
    if any(separator in str(path) for separator in " :"):  # ld.so(8): these separate the entries of LD_PRELOAD
        return "has a space or a colon in its path, with which it cannot be preloaded"
    try:
        library = ctypes.CDLL(str(path.resolve()))
    except OSError:
        return "does not load here: it was built for another machine, or its folder allows no programs (noexec)"
    return "" if hasattr(library, WIPE_STACK) else "is another library"


class _CannotBeBuilt(Exception):
    """Its message says why; it is read by people."""


def _cached(environment: Mapping[str, str]) -> Path:
    folder = platformdirs.user_cache_path("vault-credentials") / "zeroing"
    if not folder.is_absolute():
        raise _CannotBeBuilt("this user has no home folder to keep it in")
    made_from = "\0".join((_SOURCE.read_text("utf-8"), *_FLAGS, platform.machine(), str(glibc_version())))
    target = folder / f"zero_on_free-{hashlib.sha256(made_from.encode()).hexdigest()[:24]}.so"
    if os.path.lexists(target):
        return target
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = folder.resolve(strict=True)
        # Before a compiler runs there: whoever may replace the folder could have it run a program of theirs.
        if problem := unsafe_folder(folder):
            raise _CannotBeBuilt(f"{folder} {problem}")
        target = folder / target.name
        with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as build:
            compiled = _compiled(environment, Path(build))
            compiled.chmod(0o600)
            compiled.rename(target)  # whole or not at all, and whoever was first with the same bytes is replaced
    except OSError as error:
        raise _CannotBeBuilt(f"{folder} cannot be written ({error.strerror})") from None
    return target


def _compiled(environment: Mapping[str, str], folder: Path) -> Path:
    compilers = _compilers(environment)
    target = folder / "zero_on_free.so"
    for compiler in compilers.values():
        try:
            subprocess.run(  # noqa: S603 - a compiler of this machine's, no shell
                [*compiler, *_FLAGS, "-o", str(target), str(_SOURCE)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=True,
                timeout=_COMPILE_SECONDS,
                cwd=folder,
                # Not the rest, which has passwords. zig's caches are of use to nobody afterwards.
                env={
                    **{name: value for name, value in environment.items() if name in _COMPILERS_VARIABLES},
                    "ZIG_GLOBAL_CACHE_DIR": str(folder / "zig"),
                    "ZIG_LOCAL_CACHE_DIR": str(folder / "zig"),
                },
            )
        except (OSError, subprocess.SubprocessError):
            continue
        if target.exists():
            return target
    if compilers:
        raise _CannotBeBuilt(f"it could not be compiled by {' or '.join(compilers)}")
    raise _CannotBeBuilt("there is no C compiler: install one, or ziglang, the extra `zeroing`")


def _compilers(environment: Mapping[str, str]) -> dict[str, list[str]]:
    path = environment.get("PATH", os.defpath)
    found = {name: [each] for name in ("cc", "gcc", "clang") if (each := shutil.which(name, path=path))}
    if find_spec("ziglang") is not None:
        found["ziglang"] = [sys.executable, "-P", "-m", "ziglang", "cc", *_ZIG_FLAGS]
    return found
