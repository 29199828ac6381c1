"""Gets uv where Python has neither venv nor pip to get it with (Debian's bare python3), by the standard library alone.

The wheel's address and SHA-256 are uv.lock's. Usage: unpack_uv.py FOLDER; uv is then at FOLDER/bin/uv.
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


def main(folder: Path) -> None:
    """Downloads, checks, unpacks."""
    lock = tomllib.loads((Path(__file__).parent.parent / "uv.lock").read_text())
    wheel = wheel_of_this_machine(next(each["wheels"] for each in lock["package"] if each["name"] == "uv"))
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
    main(Path(sys.argv[1]))
