"""Who else on this machine may read or change a file, as far as its owner and its mode tell."""

import os
import stat

NOBODY = 0
ITS_GROUP = stat.S_IRGRP
ANYBODY = stat.S_IRGRP | stat.S_IROTH


def exposure(status: os.stat_result, *, may_read: int = NOBODY) -> str | None:
    """What to say where another user may change the file, or read it who isn't one of `may_read`; else None.

    Root is nobody else. Does not see: access control lists, the folders above it, whoever has it open already.
    """
    if status.st_uid not in (0, os.geteuid()):  # root is let into everything, so into what somebody else can change
        return "it belongs to another user of this machine (chown)"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "other users of this machine may change it (chmod 600)"
    if status.st_mode & ANYBODY & ~may_read:
        return "other users of this machine may read it (chmod 600)"
    return None
