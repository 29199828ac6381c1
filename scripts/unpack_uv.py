"""Gets the uv of uv.lock, its SHA-256 checked, by the standard library alone.

unpack_uv.py FOLDER         downloads it from the address in uv.lock; it is then at FOLDER/bin/uv. For where Python
                            has neither venv nor pip (Debian's bare python3).
unpack_uv.py --requirement  prints what pip needs to install that uv and no other: its version and wheels' hashes.
"""

import hashlib
import io
import platform
import sys
import sysconfig
import tomllib
import urllib.request
import zipfile
from pathlib import Path
from typing import Any


def wheel_of_this_machine(wheels: list[dict[str, str]]) -> dict[str, str]:
    """The wheel for this system and processor."""
    system = {"Linux": "manylinux", "Darwin": "macosx"}.get(platform.system(), platform.system())
    if "musl" in (sysconfig.get_config_var("HOST_GNU_TYPE") or ""):
        system = "musllinux"
    for wheel in wheels:
        name = wheel["url"].rpartition("/")[2]
        if system in name and name.removesuffix(".whl").endswith(platform.machine()):
            return wheel
    sys.exit(f"uv.lock has no uv for {platform.system()} on {platform.machine()}")


def locked_uv() -> dict[str, Any]:
    """What uv.lock says of uv."""
    lock = tomllib.loads((Path(__file__).parent.parent / "uv.lock").read_text(encoding="utf-8"))
    return next(each for each in lock["package"] if each["name"] == "uv")


def requirement() -> str:
    """For pip's --require-hashes. Wheels alone: what a source is built with has no hash."""
    uv = locked_uv()
    return " ".join((f"uv=={uv['version']}", *(f"--hash={wheel['hash']}" for wheel in uv["wheels"])))


def main(folder: Path) -> None:
    """Downloads, checks, unpacks."""
    wheel = wheel_of_this_machine(locked_uv()["wheels"])
    with urllib.request.urlopen(wheel["url"], timeout=120) as answer:  # noqa: S310 - the lockfile's own https address
        content = answer.read()
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != wheel["hash"]:
        sys.exit("what was downloaded as uv is not what uv.lock says")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        script = next(name for name in archive.namelist() if name.endswith(".data/scripts/uv"))
        target = folder / "bin" / "uv"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(archive.read(script))
    target.chmod(0o755)


if __name__ == "__main__":
    if sys.argv[1:] == ["--requirement"]:
        print(requirement())
    else:
        main(Path(sys.argv[1]))
