"""Becomes another program, tied to the life of the one that started it. Run as a script; imports the standard library
alone, so that it starts at once and from any folder.

    python -I child.py PARENT_PID SIGNAL USER|- PROGRAM [ARGUMENT...]

1. The kernel sends SIGNAL when the parent ends in whatever way, `kill -9` included (prctl(2), PR_SET_PDEATHSIG;
   Linux alone: elsewhere what is left over is found and ended at the next start).
2. With USER, root is given up for it: Postgres refuses to run as root. Folders on the way to its binaries and its data
   (/root, a private state folder) may be closed to that user, and opening them to everyone would be worse than what is
   done here: the one capability to pass them is kept, through exec (capabilities(7), "ambient"). Only a superuser of
   Postgres could make it read files with that, and the local stack gives nobody such a login.

This is a program of its own and not a `preexec_fn`, which runs Python between fork and exec and can deadlock.
"""

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def _permitted() -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("CapPrm:"):
                return int(line.split()[1], 16)
    return 0


def _become(user: str) -> None:
    """Gives up root for `user`, keeping only the right to pass closed folders, where this process has it."""
    import pwd

    account = pwd.getpwnam(user)
    os.setgroups([])
    os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
    if sys.platform != "linux":
        os.setuid(account.pw_uid)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    # Containers usually have only the second, which also allows writing.
    kept = next((cap for cap in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE) if _permitted() >> cap & 1), None)
    libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    bits = 0 if kept is None else 1 << kept
    sets = (_Sets * 2)(_Sets(bits, bits, bits), _Sets(0, 0, 0))
    if libc.capset(ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), sets) != 0:
        raise OSError(ctypes.get_errno(), "capset")
    if kept is not None:
        libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, kept, 0, 0)


def _end_with(parent: int, signal_number: int) -> None:
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the line above
        sys.exit(1)


def main() -> None:
    """Never returns: the process becomes the program, or ends."""
    parent, signal_number, user, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    if user != "-":
        _become(user)
    _end_with(parent, signal_number)  # after the change of user, which clears it
    os.execv(program, sys.argv[4:])  # noqa: S606 - an argument list of the launcher's, no shell


if __name__ == "__main__":
    main()
