"""Vault in Docker, through testcontainers: the same configuration and the same folder as without Docker."""

import contextlib
import importlib.util
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.errors import ConfigurationError

IMAGE = "hashicorp/vault:1.21.2"
INNER_PORT = 8200
INNER_STATE = "/vault/state"

_PROBE_SECONDS = 3
_PULL_SECONDS = 600


def available_image(progress: Callable[[str], None], *, image: str = IMAGE, pull: bool = True) -> str:
    """The image, pulled if it isn't there yet and `pull` says so.

    Raises:
        ConfigurationError: testcontainers is missing, no Docker daemon of this machine answers, or it cannot get the
            image.
    """
    if importlib.util.find_spec("testcontainers") is None:
        raise ConfigurationError("testcontainers is not installed")
    import docker  # type: ignore[import-untyped]  # it has no type hints
    from docker.errors import DockerException, ImageNotFound  # type: ignore[import-untyped]  # as above
    from requests.exceptions import RequestException
    from testcontainers.core.docker_client import get_docker_host

    address = get_docker_host() or "unix:///var/run/docker.sock"
    _check_daemon(address)
    try:
        client = docker.DockerClient(base_url=address, timeout=_PROBE_SECONDS)
    except (DockerException, RequestException, OSError):
        raise ConfigurationError("no Docker daemon answers") from None
    try:
        with contextlib.suppress(ImageNotFound):
            client.images.get(image)
            return image
        if not pull:
            raise ConfigurationError(f"Docker does not have {image}")
        progress(f"pulling {image}")
        client.api.timeout = _PULL_SECONDS
        client.images.pull(image)
    except (DockerException, RequestException, OSError):
        raise ConfigurationError(f"Docker cannot get {image}") from None
    finally:
        client.close()
    return image


def _check_daemon(address: str) -> None:
    """Whether somebody listens there. docker-py finds out too, but leaves a socket open where nobody does."""
    scheme, _, path = address.partition("://")
    if scheme != "unix":
        raise ConfigurationError("the Docker daemon is on another machine, which cannot see the state folder")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(path)
        except OSError:
            raise ConfigurationError("no Docker daemon answers") from None


class VaultContainer:
    """One Vault server in a container that ends with this process (testcontainers' reaper sees to that)."""

    def __init__(self, image: str, folder: Path, port: int) -> None:
        self._image = image
        self._folder = folder
        self._port = port
        self._container: Any = None

    def start(self) -> None:
        """Starts it, as this user, with the state folder's `vault` in it, on a loopback port of this machine.

        Raises:
            ConfigurationError: Docker refused.
        """
        from docker.errors import DockerException
        from requests.exceptions import RequestException
        from testcontainers.core.container import DockerContainer

        container = (
            DockerContainer(self._image)
            .with_volume_mapping(str(self._folder), INNER_STATE, "rw")
            .with_command(["server", f"-config={INNER_STATE}/config.json"])
            # Past the image's entrypoint, which would change user and owner of the folder.
            .with_kwargs(entrypoint="vault", user=f"{os.getuid()}:{os.getgid()}")
        )
        # Docker takes (address, port) here; `with_bind_ports` would open the port to the whole network.
        container.ports[f"{INNER_PORT}/tcp"] = ("127.0.0.1", self._port)  # type: ignore[assignment]
        try:
            container.start()
        except (DockerException, RequestException, OSError, RuntimeError):
            raise ConfigurationError(
                f"Docker could not start {self._image}; CREDENTIALS_LOCAL_VAULT=build builds Vault instead"
            ) from None
        self._container = container

    def check_alive(self) -> None:
        """Raises:
        ConfigurationError: the container has stopped.
        """
        if not self.is_alive:
            raise ConfigurationError("vault's container did not start; look at `docker logs`")

    @property
    def is_alive(self) -> bool:
        """Whether the container runs."""
        if self._container is None:
            return False
        wrapped = self._container.get_wrapped_container()
        wrapped.reload()
        return bool(wrapped.status in ("created", "running"))

    def stop(self) -> None:
        """Stops Vault in order, then removes the container. Its data stays in the state folder."""
        if self._container is not None:
            self._container.get_wrapped_container().stop(timeout=15)
            self._container.stop()
            self._container = None
