"""The folder that a local stack keeps everything in: data, keys, passwords. One stack at a time may use it."""

import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.errors import ConfigurationError

_LOCK_WAIT = 1.0  # seconds; `is_in_use` holds the lock for a moment, which must not look like another stack


class StateDir:
    """A private folder (0700) of private files (0600).

    Keys and passwords in it are as safe as the account it belongs to, and no safer: they lie beside what they open.
    """

    def __init__(self, path: Path) -> None:
        given = path.expanduser().absolute()
        self._link = given if given.is_symlink() else None
        self.path = given.resolve()

    def create(self) -> None:
        """Makes the folder, or takes an existing one of the same user and closes it to others.

        Raises:
            ConfigurationError: it cannot be made, or as `check_owner`.
        """
        self.check_owner()
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.check_owner()
            self.path.chmod(0o700)
        except OSError as error:
            raise ConfigurationError(f"cannot use {self.path} as the state folder: {error.strerror}") from None

    def check_owner(self) -> None:
        """A folder of somebody else's could be changed under us: what is in it is run, connected to and pasted.

        Raises:
            ConfigurationError: the folder is another user's, or a symbolic link, or no folder. One that isn't there is
                nobody's.
        """
        if self._link is not None:
            raise ConfigurationError(f"{self._link} is a symbolic link: name the state folder itself")
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            return
        except OSError as error:
            raise ConfigurationError(f"cannot use {self.path} as the state folder: {error.strerror}") from None
        if not stat.S_ISDIR(found.st_mode):
            raise ConfigurationError(f"cannot use {self.path} as the state folder: it is no folder")
        if found.st_uid != os.geteuid():
            raise ConfigurationError(f"cannot use {self.path} as the state folder: it belongs to another user")

    def folder(self, name: str) -> Path:
        """A private folder inside this one, made if missing."""
        folder = self.path / name
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def write(self, name: str, text: str) -> Path:
        """Writes a private file in one step and makes it durable: after a crash it is the old one or the new one."""
        target = self.path / name
        temporary = target.with_name(f".{name}.new")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(target)
        folder = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return target

    def write_json(self, name: str, value: Mapping[str, Any]) -> Path:
        """`write` of a JSON object."""
        return self.write(name, json.dumps(value, indent=1) + "\n")

    def read(self, name: str) -> str | None:
        """The file's text, or None where there is no such file."""
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def read_json(self, name: str) -> dict[str, Any]:
        """The file's JSON object; empty where there is no such file.

        Raises:
            ConfigurationError: the file is there but is no JSON object.
        """
        text = self.read(name)
        if text is None:
            return {}
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise ConfigurationError(f"{self.path / name} is damaged: not a JSON object")
        return value

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder against a second stack. The lock ends with the process, however that ends.

        Raises:
            ConfigurationError: another stack is using the folder.
        """
        with open(self.path / "lock", "w", encoding="utf-8") as file:
            give_up = time.monotonic() + _LOCK_WAIT
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > give_up:
                        raise self._in_use() from None
                    time.sleep(0.05)
            yield

    def check_unused(self) -> None:
        """Raises:
        ConfigurationError: another stack is using the folder at this moment.
        """
        if self.is_in_use():
            raise self._in_use()

    def _in_use(self) -> ConfigurationError:
        return ConfigurationError(
            f"another stack is running in {self.path} already: stop it, or choose another folder and port "
            "(--state-dir and --port; make run STATE_DIR=… PORT=…)"
        )

    def is_in_use(self) -> bool:
        """Whether a stack is running in the folder at this moment."""
        if not (self.path / "lock").exists():
            return False
        with open(self.path / "lock", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    def port(self, name: str) -> int:
        """A free loopback port: the one used under this name before, or another where that one is taken now.

        Nothing is reserved: another program may take it before the server does.
        """
        ports = self.read_json("ports.json")
        kept = ports.get(name)
        if isinstance(kept, int) and _is_free(kept):
            return kept
        ports[name] = free_port()
        self.write_json("ports.json", ports)
        return int(ports[name])


def free_port() -> int:
    """A loopback port that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the servers do it: connections of the stopped one that linger in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
