"""The tests' servers as containers: which images, whether they can be had, and Postgres by testcontainers.

`TEST_VAULT_IMAGE` and `TEST_POSTGRES_IMAGE` name other images than docker-compose.yml's.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import ConfigurationError
from service.localstack import vault_container

POSTGRES_IMAGE = "postgres:18.4"

_CONNECTIONS = 200


def images() -> tuple[str, str]:
    """Vault's and Postgres'."""
    return (
        os.environ.get("TEST_VAULT_IMAGE") or vault_container.IMAGE,
        os.environ.get("TEST_POSTGRES_IMAGE") or POSTGRES_IMAGE,
    )


def why_not(*, pull: bool) -> str | None:
    """Why the tests can't have their servers as containers; None where they can. `pull`: images that are missing."""
    try:
        for image in images():
            vault_container.available_image(print, image=image, pull=pull)
    except ConfigurationError as error:
        return str(error)
    return None


def vault_environment() -> dict[str, str]:
    """What makes `find_vault` take the image."""
    return {"CREDENTIALS_LOCAL_VAULT": "docker", "CREDENTIALS_LOCAL_VAULT_IMAGE": images()[0]}


@contextmanager
def postgres_container() -> Iterator[str]:
    """A Postgres of the block's own, on a loopback port; the URL of its superuser."""
    from testcontainers.community.postgres import PostgresContainer

    made = PostgresContainer(images()[1], driver=None, password=secrets.token_hex(16))
    # An address alone: any free port of it. By default Docker would open the port to the whole network.
    made.ports["5432"] = ("127.0.0.1",)  # type: ignore[assignment]
    with made.with_command(["postgres", "-c", f"max_connections={_CONNECTIONS}"]) as postgres:
        yield str(postgres.get_connection_url())
