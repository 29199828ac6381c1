"""Who an embedding program is, in the accesses that the library's functions act with."""

from typing import Any, cast
from uuid import uuid4

import pytest

from service import composition
from service.modules.credential_service import store_credential
from tests.unit.fake_runtime import PARTS, Part, settings


class Stored:
    """What the writer returns, as far as it is looked at."""

    id = uuid4()


@pytest.mark.parametrize(
    ("given", "actor"), [({}, "library"), ({"actor": "library"}, "library"), ({"actor": "bot 7"}, "library:bot 7")]
)
async def test_a_programs_own_name_is_behind_librarys(
    given: dict[str, str], actor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = Part()
    part.result = Stored()
    fields: dict[str, Any] = dict.fromkeys(PARTS, part)
    runtime = composition.Runtime(settings=settings(**given), identity=None, **fields)

    async def process_runtime() -> composition.Runtime:
        return runtime

    monkeypatch.setattr(composition, "process_runtime", process_runtime)
    await store_credential(cast(Any, None), uuid4(), "alice", "alpaca", "AK", "SK")
    ((name, (access, _new), _given),) = part.calls
    assert name == "store"
    assert (access.user_id, access.actor) == ("alice", actor)
