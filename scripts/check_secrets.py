#!/usr/bin/env python3
"""Looks for secrets in everything that git has or would take. Called by `make lint`; needs no network.

Kingfisher's own rules, nothing it finds is tried out anywhere. With each run a made-up token is planted beside the
files: where that isn't found, the scan is worth nothing and fails. Shows where something is, never what. A line
that is no secret says so by `kingfisher:ignore` in it.
"""

import json
import secrets
import string
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".venv" / ".secret-rules"


def main(folders: list[str]) -> int:
    """0 where there is none; 1 where there is one; 2 where it could not be looked."""
    root = Path(folders[0]) if folders else ROOT
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=False,
        text=True,
    )
    if listed.returncode != 0:
        print("secrets: not looked for, as this is no git checkout")
        return 0
    files = [path for name in listed.stdout.split("\0") if name and (path := root / name).is_file()]
    with tempfile.TemporaryDirectory() as folder:
        planted = Path(folder) / "planted.py"
        alphabet = string.ascii_letters + string.digits
        planted.write_text('TOKEN = "ghp_' + "".join(secrets.choice(alphabet) for _ in range(36)) + '"\n')
        found = _scan([*map(str, files), str(planted)])
        if found is None:
            print("secrets: the scanner failed")
            return 2
        if not any(path == str(planted) for path, _line, _rule in found):
            print("secrets: the scan did not find what was planted for it")
            return 2
        real = sorted({each for each in found if each[0] != str(planted)})
    for path, line, rule in real:
        print(f"{path}:{line}: looks like a secret ({rule})")
    print(f"secrets: {len(real)} in {len(files)} files; the planted one was found")
    return 1 if real else 0


def _scan(paths: list[str]) -> set[tuple[str, int, str]] | None:
    options = ["--no-validate", "--no-update-check", "--redact", "--git-history", "none", "--format", "json"]
    command = [str(ROOT / ".venv/bin/kingfisher"), "scan", *options, "--rule-cache-dir", str(CACHE), *paths]
    ran = subprocess.run(command, capture_output=True, check=False, text=True)
    if ran.returncode not in (0, 200, 205):  # nothing, findings, findings that work
        print(ran.stderr[-2000:], file=sys.stderr)
        return None
    found: set[tuple[str, int, str]] = set()
    # One object of findings, then one of numbers.
    for each in json.JSONDecoder().raw_decode(ran.stdout)[0]["findings"]:
        found.add((each["finding"]["path"], each["finding"]["line"], each["rule"]["id"]))
    return found


sys.exit(main(sys.argv[1:]))
