"""What `reconcile` and `doctor` print of thousands of credentials: a line each, what to do once, what is left last."""

import json
from types import SimpleNamespace
from typing import cast
from uuid import UUID, uuid4

from service.commands.reconcile_output import Found, State, Treated, as_json, as_lines
from service.doctor import _skew
from service.modules.event_chain import SealSkew
from service.modules.reconciliation import ReconciliationReport, ScanReport
from service.modules.records import Credential
from service.modules.skew_mending import Remedy
from service.modules.skew_records import Examined, PathDescription, SkewKind, SkewReport


def treated(state: State, remedy: Remedy) -> Treated:
    return Treated(
        id=uuid4(),
        kinds=(SkewKind.PIN_GONE, SkewKind.KEY_VERSION_AHEAD),
        matters=True,
        state=state,
        remedy=remedy.value,
        told=remedy.meaning,
    )


def found() -> Found:
    left = [treated(State.LEFT, Remedy.STORE_ANEW) for _ in range(8)]
    mended = [treated(State.MENDED, Remedy.REPIN) for _ in range(2444)]
    return Found(
        applied=True,
        reconciled=ReconciliationReport(due=3),
        skew=SkewReport(examined=5000, complete=True),
        treated=[*left[:4], *mended, *left[4:]],
    )


def test_each_credential_is_one_line_and_what_to_do_is_said_once_and_what_is_left_comes_last() -> None:
    made = found()
    lines = list(as_lines(made))
    assert len(lines) < len(made.treated) + 25
    assert {line.split(" ")[1] for line in lines if line.startswith(("mended ", "left "))} == {
        str(each.id) for each in made.treated
    }
    for remedy in (Remedy.REPIN, Remedy.STORE_ANEW):
        assert sum(remedy.meaning in line for line in lines) == 1
    assert lines[-11] == f"Left (8): {Remedy.STORE_ANEW.meaning}"
    assert all(line.startswith("left ") for line in lines[-10:-2])
    assert lines[-1] == "2444 mended, 8 left"
    assert "due: 3" in lines


def test_the_json_has_all_of_them_and_says_what_to_do_once() -> None:
    made = found()
    given = json.loads(json.dumps(as_json(made)))
    assert given["reconciliation"]["due"] == 3
    assert given["scan"] is None
    skew = given["skew"]
    assert (skew["mended"], skew["left"], skew["mendable"], skew["no_action"]) == (2444, 8, 0, 0)
    assert {each["id"] for each in skew["credentials"]} == {str(each.id) for each in made.treated}
    assert [each["state"] for each in skew["credentials"][-8:]] == ["left"] * 8
    assert skew["remedies"].keys() == {"repin", "store_anew"}


def test_seals_that_do_not_fit_are_left_though_every_credential_is_mended() -> None:
    made = Found(applied=True, skew=SkewReport(seals=SealSkew.CUT))
    assert made.anything_left
    assert list(as_lines(made))[-1] == "0 mended, 0 left, the seals don't fit"


def test_a_name_in_kv_cannot_break_its_line_nor_command_a_terminal() -> None:
    made = Found(applied=False, scanned=ScanReport(unaccounted=["a\nleft b\x1b[2J\r"]))
    assert list(as_lines(made))[-1] == "unaccounted a?left b?[2J?"
    assert as_json(made)["scan"]["unaccounted"] == ["a\nleft b\x1b[2J\r"]  # json escapes it


def examined(*kinds: SkewKind) -> Examined:
    return Examined(cast("Credential", SimpleNamespace(id=uuid4())), PathDescription(), kinds)


def test_the_doctor_explains_each_kind_once_and_names_a_hundred_those_that_matter_first() -> None:
    slight = [examined(SkewKind.PREVIOUS_GONE) for _ in range(200)]
    grave = [examined(SkewKind.PIN_GONE) for _ in range(60)]
    findings = list(_skew(SkewReport(credentials=[*slight, *grave], examined=260, complete=True)))
    for kind in (SkewKind.PIN_GONE, SkewKind.PREVIOUS_GONE):
        assert sum(kind.meaning in each.detail for each in findings) == 1
    named = [UUID(each.name.split()[1]) for each in findings if each.name.startswith("credential ")]
    assert len(named) == 100
    assert named[:60] == [each.credential.id for each in grave]
    assert findings[-1].detail.startswith("160 more are not listed here; `vault-credentials reconcile --skew`")
