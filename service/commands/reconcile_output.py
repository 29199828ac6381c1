"""What `vault-credentials reconcile` found, as lines for people and pipes, or as JSON for programs.

A line is never wrapped, and has one credential or one path: `<state> <id> <kinds>`. What a kind means, and what to do,
is said once above its lines. What comes from the stores is shown, never interpreted: control characters are replaced.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID

from service.commands.service_client import plain
from service.modules.skew_records import SEALS, SEALS_REMEDY, SkewKind

if TYPE_CHECKING:
    from service.modules.reconciliation import ReconciliationReport, ScanReport
    from service.modules.skew_records import KeySkew, SkewReport


class State(StrEnum):
    """Where a credential that didn't fit stands now. In the order in which they are shown: what is left comes last."""

    NO_ACTION = "no_action"
    MENDED = "mended"
    MENDABLE = "mendable"  # by --apply
    LEFT = "left"  # for somebody to do


_HEADINGS = {
    State.NO_ACTION: "No action needed",
    State.MENDED: "Mended",
    State.MENDABLE: "Can be mended, with --apply",
    State.LEFT: "Left",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Treated:
    """A credential that doesn't fit, or didn't, and what was done or is to be done about it.

    `kv_version` and `secret_version`: where its row is pinned anew, by --apply; None where that stays.
    """

    id: UUID
    kinds: Sequence[SkewKind]
    matters: bool
    state: State
    remedy: str
    """A name that stays; `told` is the same in words."""
    told: str
    kv_version: int | None = None
    secret_version: int | None = None


@dataclass(slots=True, kw_only=True)
class Found:
    """All that one run found. A part that wasn't asked for, or wasn't come to, is None."""

    applied: bool
    reconciled: "ReconciliationReport | None" = None
    scanned: "ScanReport | None" = None
    skew: "SkewReport | None" = None
    treated: list[Treated] = field(default_factory=list)

    @property
    def anything_left(self) -> bool:
        """Whether somebody has to do something that matters."""
        if self.skew is None:
            return False
        left = any(each.matters and each.state in (State.LEFT, State.MENDABLE) for each in self.treated)
        return left or bool(self.skew.keys or self.skew.seals)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return self.reconciled is None and self.scanned is None and self.skew is None


def as_json(found: Found) -> dict[str, Any]:
    """The whole report, for `json.dumps`. Keys stay; words (`meaning`, `what_to_do`) may change."""
    return {
        "applied": found.applied,
        "reconciliation": None if found.reconciled is None else asdict(found.reconciled),
        "scan": None if found.scanned is None else _scan_json(found.scanned),
        "skew": None if found.skew is None else _skew_json(found, found.skew),
    }


def _scan_json(scanned: "ScanReport") -> dict[str, Any]:
    return {
        "credentials": scanned.credentials,
        "broken": [str(each) for each in scanned.broken],
        "skewed": [each.partition(": ")[0] for each in scanned.skewed],
        "unaccounted": scanned.unaccounted,
    }


def _skew_json(found: Found, report: "SkewReport") -> dict[str, Any]:
    states = Counter(each.state for each in found.treated)
    return {
        "compared": report.examined,
        "not_fitting": len(found.treated),
        **{state.value: states[state] for state in State},
        "kinds": {kind.value: kind.meaning for kind in _kinds(found.treated)},
        "remedies": {each.remedy: each.told for each in found.treated},
        "credentials": [
            {
                "id": str(each.id),
                "state": each.state.value,
                "kinds": [kind.value for kind in each.kinds],
                "matters": each.matters,
                "remedy": each.remedy,
                "kv_version": each.kv_version,
                "secret_version": each.secret_version,
            }
            for each in _ordered(found.treated)
        ],
        "keys": [_key_json(each) for each in report.keys],
        "seals": None
        if report.seals is None
        else {"problem": report.seals.value, "meaning": SEALS[report.seals], "what_to_do": SEALS_REMEDY},
    }


def _key_json(key: "KeySkew") -> dict[str, Any]:
    return {
        "key": key.key,
        "latest_version": key.latest_version,
        "floor": key.floor,
        "credentials_ahead": {"count": key.credentials, "counted_all": key.counted_all},
        "credentials_remade": {"count": key.remade, "counted_all": key.remade_all},
        "meaning": key.meaning,
    }


def as_lines(found: Found) -> Iterator[str]:
    """The same as lines: counts first, what is left for somebody last, and then how many of each."""
    yield "applied" if found.applied else "dry run: nothing was changed"
    if found.reconciled is not None:
        for name, value in asdict(found.reconciled).items():
            yield f"{name.replace('_', ' ')}: {value}"
    if found.scanned is not None:
        yield from _scan_lines(found.scanned)
    if found.skew is not None:
        yield from _skew_lines(found, found.skew)


def _scan_lines(scanned: "ScanReport") -> Iterator[str]:
    yield f"credentials: {scanned.credentials}"
    names: tuple[tuple[str, Sequence[object]], ...] = (
        ("broken", scanned.broken),
        ("skewed", scanned.skewed),
        ("unaccounted", scanned.unaccounted),
    )
    for name, values in names:
        yield f"{name}: {len(values)}"
    for name, values in names:
        # Names in KV are whatever somebody called them.
        yield from (f"{name} {plain(str(each))}" for each in values)


def _skew_lines(found: Found, report: "SkewReport") -> Iterator[str]:
    yield ""
    yield f"Vault against Postgres: {report.examined} credentials compared, {len(found.treated)} don't fit"
    for kind, count in _kinds(found.treated).items():
        yield f"  {kind.value} ({count}): {kind.meaning}"
    heading = None
    ordered = _ordered(found.treated)
    counts = Counter((each.state, each.remedy) for each in ordered)
    for each in ordered:
        if heading != (each.state, each.remedy):
            heading = (each.state, each.remedy)
            yield ""
            yield f"{_HEADINGS[each.state]} ({counts[heading]}): {plain(each.told)}"
        yield _line(each)
    if report.keys or report.seals:
        yield ""
    for key in report.keys:
        yield f"key {plain(key.meaning)} (a key that is behind is an older Vault's)"
    if report.seals is not None:
        yield f"seals {SEALS[report.seals]} What to do: {SEALS_REMEDY}"
    yield ""
    yield _summary(found, report)


def _line(each: Treated) -> str:
    line = f"{each.state.value} {each.id} {','.join(each.kinds)}"
    if each.kv_version is None:
        return line
    return f"{line} (KV version {each.kv_version}, secret version {each.secret_version})"


def _summary(found: Found, report: "SkewReport") -> str:
    states = Counter(each.state for each in found.treated)
    told = [f"{states[State.MENDED]} mended" if found.applied else f"{states[State.MENDABLE]} can be mended"]
    told.append(f"{states[State.LEFT]} left")
    if states[State.NO_ACTION]:
        told.append(f"{states[State.NO_ACTION]} need nothing")
    if report.keys:
        told.append(f"transit keys that don't fit: {len(report.keys)}")
    if report.seals is not None:
        told.append("the seals don't fit")
    return ", ".join(told)


def _ordered(treated: Iterable[Treated]) -> list[Treated]:
    states = list(State)
    return sorted(treated, key=lambda each: (states.index(each.state), each.remedy, each.id))


def _kinds(treated: Iterable[Treated]) -> dict[SkewKind, int]:
    """How many there are of each kind that there is, those that matter most first."""
    counts = Counter(kind for each in treated for kind in each.kinds)
    return {kind: counts[kind] for kind in SkewKind if counts[kind]}
