"""Runs `terraform` on copies of the module: nothing is written into the checkout."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

POLICIES = Path(__file__).parents[2] / "vault-policies"

_SECONDS = 150  # for one command; nothing here is about time
_NO_SUCH_ENVIRONMENT = ("TF_WORKSPACE", "TF_DATA_DIR", "TF_CLI_ARGS", "TF_VAR_")


def copy_of_policies(folder: Path) -> Path:
    """`vault-policies` with the module in it, without what a person's own run may have left there."""
    unwanted = shutil.ignore_patterns(".terraform*", "*.tfstate*", "*.tfvars")
    return Path(shutil.copytree(POLICIES, folder / "vault-policies", ignore=unwanted))


class Terraform:
    """Terraform in one folder, which is a root module."""

    def __init__(self, program: str, folder: Path, **environment: str) -> None:
        self.folder = folder
        self._program = program
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_NO_SUCH_ENVIRONMENT)}
        self._environment = {
            **kept,
            "CHECKPOINT_DISABLE": "1",
            "TF_IN_AUTOMATION": "1",
            "TF_INPUT": "0",
            "TF_PLUGIN_CACHE_MAY_BREAK_DEPENDENCY_LOCK_FILE": "1",
            **environment,
        }

    def with_environment(self, **environment: str) -> "Terraform":
        """The same folder, with other environment variables."""
        return Terraform(self._program, self.folder, **{**self._environment, **environment})

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One command, whatever comes of it."""
        return subprocess.run(
            [self._program, *arguments],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )

    def __call__(self, *arguments: str) -> str:
        """One command that must succeed; what it printed."""
        done = self.run(*arguments)
        assert done.returncode == 0, f"terraform {arguments[0]}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def changes(self, *arguments: str) -> dict[str, list[str]]:
        """What a plan would do: actions by resource address; empty where nothing is to be done.

        A plan that changes outputs alone fails here: that is a change too, and none that a test wants.
        """
        plan = str(self.folder / "a.tfplan")
        done = self.run("plan", "-no-color", "-detailed-exitcode", f"-out={plan}", *arguments)
        assert done.returncode in (0, 2), f"{done.stdout}\n{done.stderr}"
        shown = json.loads(self("show", "-json", plan))
        changed = {
            each["address"]: each["change"]["actions"]
            for each in shown.get("resource_changes", [])
            if each["change"]["actions"] not in (["no-op"], ["read"])
        }
        assert bool(changed) == (done.returncode == 2), done.stdout
        return changed

    def refusal(self, *arguments: str) -> str:
        """What a command that must fail said, on one line each."""
        done = self.run(*arguments, "-no-color")
        assert done.returncode == 1, done.stdout
        return " ".join(done.stderr.split())

    def output(self, name: str) -> Any:
        """An output's value."""
        return json.loads(self("output", "-json", name))
