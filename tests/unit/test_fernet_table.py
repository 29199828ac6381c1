"""How a table of Fernet's is connected to."""

import pytest

from service.postgres.fernet_table import weak_connection

SAFE = [
    "postgresql://u@127.0.0.1/d",
    "postgresql://u:p%40@localhost:5432/d",
    "postgresql://u@[::1]:5432/d",
    "postgresql:///d",
    "postgresql://%2Fvar%2Frun/d",
    "postgresql:///d?host=/var/run/postgresql",
    "postgresql://u@db.example/d?sslmode=verify-full",
]
WEAK = [
    "postgresql://u@db.example/d",
    "postgresql://u@db.example:5432/d?sslmode=require",
    "postgresql://u@db.example/d?sslmode=verify-ca",
    "postgresql://u@10.0.0.1/d",
    "postgresql://u@[fd00::1]/d",
    "postgresql://u@localhost,db.example/d",
    "postgresql:///d?host=db.example",
    "postgresql://localhost@db.example/d",
]


@pytest.mark.parametrize("url", SAFE)
def test_a_connection_that_stays_here_or_is_verified_is_no_reason_to_warn(url: str) -> None:
    assert weak_connection(url, None) is None


@pytest.mark.parametrize("url", WEAK)
def test_a_connection_to_another_machine_that_is_not_verified_is_warned_of(url: str) -> None:
    assert weak_connection(url, None) is not None
    assert ("sslmode" in url) is (weak_connection(url, "verify-full") is not None)
