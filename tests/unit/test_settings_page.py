"""docs/settings.md has every setting as it is, and README no default that isn't so."""

import re
import subprocess
import sys
from pathlib import Path

from service.settings import Settings

ROOT = Path(__file__).parents[2]
WRITER = ROOT / "scripts" / "settings_page.py"
# `CREDENTIALS_BATCH_ITEMS` (128), or `…_MAX_WAITING` (4096)
DEFAULT = re.compile(r"`(?:CREDENTIALS|…)_([A-Z_]+)` \(([0-9][0-9,.]*)")


def test_the_page_is_what_the_settings_say() -> None:
    page = subprocess.run([sys.executable, WRITER], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == page, (
        "write it again: .venv/bin/python scripts/settings_page.py > docs/settings.md"
    )
    assert all(name.upper() in page for name in Settings.model_fields)


def test_defaults_in_the_other_pages_are_those_of_the_settings() -> None:
    told = [
        (page.name, name, value)
        for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
        for name, value in DEFAULT.findall(page.read_text(encoding="utf-8"))
    ]
    assert len(told) > 10
    for page_name, name, value in told:
        fits = [field for field in Settings.model_fields if field.endswith(name.lower())]
        defaults = {float(str(Settings.model_fields[field].default)) for field in fits}
        assert float(value.replace(",", "").rstrip(".")) in defaults, (page_name, name)
