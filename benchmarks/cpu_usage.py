"""CPU time and memory of other processes, from /proc (Linux); nothing elsewhere.

https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
"""

import os
from pathlib import Path

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_KIB = 1024


def cpu_seconds(pid: int, *, with_children: bool = False) -> float:
    """Seconds of CPU a process has used; `with_children`: its present children's too (Postgres has one each
    connection), and those it has waited for.
    """
    fields = _stat(pid)
    if fields is None:
        return 0.0
    own = _seconds(fields, waited_for=with_children)
    if not with_children:
        return own
    return own + sum(
        _seconds(child, waited_for=False)
        for name in os.listdir("/proc")
        if name.isdigit() and (child := _stat(int(name))) is not None and int(child[1]) == pid
    )


def rss_mb(pid: int) -> float:
    """Megabytes (10^6 bytes) of a process that are in memory; NaN where that can't be told."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return float("nan")
    for line in status.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * _KIB / 1e6
    return float("nan")


def _stat(pid: int) -> list[str] | None:
    """The fields after the name, so from the third, `state`, on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None


def _seconds(fields: list[str], *, waited_for: bool) -> float:
    # utime, stime, cutime, cstime are fields 14 to 17.
    return sum(map(int, fields[11 : 15 if waited_for else 13])) * _TICK
