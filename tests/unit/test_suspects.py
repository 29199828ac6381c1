"""What providers say of keys: noted where it is news, and Postgres left alone where it isn't."""

from typing import Any

import pytest

from service.modules.records import OwnerAccess
from service.modules.suspects import Suspects
from tests.unit.credentials import NOW, some_credential

ACCESS = OwnerAccess(user_id="alice", actor="user:alice")


class Noted:
    """In the control store's place."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        async def call(*_: Any, **__: Any) -> list[Any]:
            self.calls.append(name)
            return []

        return call


@pytest.mark.parametrize(
    ("is_suspect", "said", "asked"),
    [
        (False, "accepted", []),
        (True, "accepted", ["note_accepted"]),
        (False, "refused", ["note_refused"]),
        (True, "refused", []),
    ],
)
async def test_postgres_is_asked_only_where_what_a_provider_says_is_news(
    is_suspect: bool, said: str, asked: list[str]
) -> None:
    store: Any = Noted()
    suspects = Suspects(store)
    await getattr(suspects, said)(ACCESS, some_credential(suspect_since=NOW if is_suspect else None))
    assert store.calls == asked
