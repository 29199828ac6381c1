"""Starting, watching and ending the servers' processes, and those that a crashed launch left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from service.errors import ConfigurationError
from service.localstack.state_dir import StateDir

_CHILD = Path(__file__).with_name("child.py")


class ChildProcess:
    """One server, in a session of its own, so that Ctrl-C reaches the launcher alone, which then stops it in order.

    On Linux it is also told to stop when the launcher ends without a word. That is tied to the *thread* that starts it:
    start servers from a thread that lives as long as they should.
    """

    def __init__(self, name: str, state: StateDir, stop_signal: signal.Signals) -> None:
        self.name = name
        self.log = state.path / f"{name}.log"
        self._state = state
        self._stop_signal = stop_signal
        self._process: subprocess.Popen[bytes] | None = None

    def start(
        self, command: Sequence[str], *, user: str | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        """Starts it, after ending what a crashed launch left of it. Output goes to `<name>.log` in the state folder."""
        self.end_leftover()
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the launcher's own command, no shell
                tied_to_this_process(command, self._stop_signal, user),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=None if environment is None else dict(environment),
                start_new_session=True,
            )
        finally:
            os.close(log)
        self._state.write_json(
            f"{self.name}.pid.json", {"pid": self._process.pid, "started": _started_at(self._process.pid)}
        )

    def check_alive(self) -> None:
        """Raises:
        ConfigurationError: the server has ended; the message names its log.
        """
        if self._process is None or self._process.poll() is not None:
            raise ConfigurationError(f"{self.name} did not start; its log is {self.log}")

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self, patience: float = 20.0) -> None:
        """Asks it to stop, and kills it where that takes longer than `patience` seconds."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(self._stop_signal)
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)
        self._process = None
        (self._state.path / f"{self.name}.pid.json").unlink(missing_ok=True)

    def end_leftover(self) -> None:
        """Ends this server if a crashed launch left it running: the same pid, started at the same moment.

        Any other process with that pid is not ours and is let be. The caller holds the state folder's lock, so no
        launch that is alive can own it.
        """
        noted = self._state.read_json(f"{self.name}.pid.json")
        pid, started = noted.get("pid"), noted.get("started")
        if not isinstance(pid, int) or started is None:
            return
        for stop_signal, patience in ((self._stop_signal, 20.0), (signal.SIGKILL, 10.0)):
            if _started_at(pid) != started:
                break
            os.kill(pid, stop_signal)
            give_up = time.monotonic() + patience
            while _started_at(pid) == started and time.monotonic() < give_up:
                time.sleep(0.05)


def tied_to_this_process(command: Sequence[str], stop_signal: signal.Signals, user: str | None = None) -> list[str]:
    """The command line that runs `command` as `user`, ended by `stop_signal` when the calling process ends."""
    return [
        sys.executable,
        "-I",
        str(_CHILD),
        str(os.getpid()),
        str(int(stop_signal)),
        user or "-",
        *command,
    ]


def _started_at(pid: int) -> str | None:
    """When the process started, in the system's own words; None where there is none (or only its remains)."""
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] == "Z" else fields[19]  # starttime, proc_pid_stat(5) field 22
    found = subprocess.run(  # noqa: S603 - fixed command
        ["/bin/ps", "-o", "lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or None
