"""Keys, jobs and reports as a person reads them. What comes from the service is shown, never interpreted."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from service.commands.service_client import plain

Json = Mapping[str, Any]
_SHOWN = 10
"""Credentials that are listed by their ids; REST has a hundred."""
_WIDEST = 1000


def show_keys(console: Console, keys: Sequence[Json]) -> None:
    """A line for each key."""
    table = _table("key", "newest", "made", "credentials", "older versions'", "decrypts from", "retirable below")
    for key in keys:
        newest = _newest(key)
        older = [each["credentials"] for each in key["versions"] if each["version"] < key["latest_version"]]
        table.add_row(
            *_cells(
                key["name"],
                key["latest_version"],
                _time(newest["created_at"]),
                sum(each["credentials"] for each in key["versions"]),
                sum(older),
                key["min_decryption_version"],
                _retirable(key),
            )
        )
    _print_whole(console, table)
    for key in keys:
        _warn(console, key)


def show_key(console: Console, key: Json) -> None:
    """One key with all its versions."""
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("key", f"{key['name']} (mount {key['transit_mount']}), for {key['credential_type']} credentials"),
        ("newest version", f"{key['latest_version']}, made {_time(_newest(key)['created_at'])}"),
        ("decrypts from version", key["min_decryption_version"]),
        ("encrypts from version", key["min_encryption_version"] or "the newest alone"),
        ("safe to retire below", _retirable(key)),
        ("next rotation", _next_rotation(key)),
        ("encryptions under the newest", f"{key['encryptions']} that this service's events tell of"),
    ):
        facts.add_row(*_cells(name, value))
    _print_whole(console, facts)
    table = _table("version", "state", "made", "credentials", "kept before", "oldest credential", "stored")
    for each in key["versions"]:
        table.add_row(
            *_cells(
                each["version"],
                each["state"].replace("_", " "),
                _time(each["created_at"]),
                each["credentials"],
                each["previous_secrets"],
                each["oldest_credential_id"] or "",
                _time(each["oldest_credential_created_at"]) if each["oldest_credential_id"] else "",
            )
        )
    _print_whole(console, table)
    _warn(console, key)


def show_report(console: Console, report: Json) -> None:
    """A key's report."""
    show_key(console, report["key"])
    console.print()
    if report["rewrap"] is not None:
        console.print(Text(f"Rewrap under way: {progress(report['rewrap'])}"))
        console.print()
    show_jobs(console, report["jobs"])
    console.print()
    console.print(Text("In Vault's UI:"))
    for name, title in (("key", "the key"), ("key_versions", "its versions"), ("credentials", "credentials")):
        # Not in a table, whose cells would cut addresses.
        console.print(Text(f"  {title}: {plain(report['links'][name])}"), soft_wrap=True)


def show_jobs(console: Console, jobs: Sequence[Json]) -> None:
    """A line for each job."""
    table = _table("job", "what", "asked for by", "at", "ended", "outcome")
    for job in jobs:
        table.add_row(
            *_cells(
                job["id"],
                _what(job),
                job["requested_by"],
                _time(job["requested_at"]),
                _time(job["ended_at"]),
                outcome(job),
            )
        )
    if jobs:
        _print_whole(console, table)
    else:
        console.print(Text("No job has been asked for."))


def show_in_the_way(console: Console, count: int, ids: Iterable[object]) -> None:
    """Why a retirement was refused."""
    listed = list(ids)[:_SHOWN]
    console.print(Text(f"Nothing was retired: {count} credentials, or their kept previous secrets, are in the way."))
    for each in listed:
        console.print(Text(f"  {plain(each)}"), soft_wrap=True)
    if len(listed) < count:
        console.print(Text(f"  … and {count - len(listed)} more"))
    console.print(Text("A rewrap moves them to the newest version: vault-credentials keys rewrap KEY"))


def outcome(job: Json) -> str:
    """How far a job is, or how it ended, in a few words."""
    if job["state"] == "failed":
        who = f" by {job['stop_requested_by']}" if job["reason"] == "stopped" and job["stop_requested_by"] else ""
        reason = str(job["reason"]).replace("_", " ")
        counts = f", {job['done']} done, {job['failed']} not" if job["kind"] == "rewrap" else ""
        return plain(f"failed: {reason}{who}{counts}")
    if job["kind"] == "rewrap":
        return plain(f"{job['state']}: {progress(job)}")
    made = f", version {job['to_version']}" if job["kind"] == "rotate" and job["to_version"] else ""
    return plain(f"{job['state']}{made}")


def progress(job: Json) -> str:
    """How far a rewrap is."""
    total = "?" if job["total"] is None else job["total"]
    failed = f", {job['failed']} could not be done" if job["failed"] else ""
    left = job["remaining_seconds"]
    estimate = "" if left is None or job["state"] != "running" else f", about {_duration(left)} left"
    return plain(f"{job['done']} of {total} credentials{failed}{estimate}")


def _what(job: Json) -> str:
    if job["kind"] == "retire":
        return f"retire below {job['below_version']}"
    if job["kind"] == "rewrap" and job["to_version"]:
        return f"rewrap to {job['to_version']}"
    return str(job["kind"])


def _newest(key: Json) -> Json:
    found: Json = next(each for each in key["versions"] if each["version"] == key["latest_version"])
    return found


def _retirable(key: Json) -> str:
    below = key["safe_to_retire_below"]
    return str(below) if below > max(key["floor"], key["min_decryption_version"]) else "nothing now"


def _next_rotation(key: Json) -> str:
    if key["auto_rotate_seconds"] is None:
        return "not by itself (auto_rotate_period is not set in Vault)"
    return f"{_time(key['next_rotation_at'])}, every {_duration(key['auto_rotate_seconds'])}, by Vault"


def _warn(console: Console, key: Json) -> None:
    for warning in key["warnings"]:
        console.print(Text(f"WARNING: {plain(key['name'])}: {plain(warning)}", style="bold red"), soft_wrap=True)


def _time(value: str | None) -> str:
    """To the minute, in UTC as the service tells it."""
    return "–" if value is None else f"{value[:16].replace('T', ' ')}Z"


def _duration(seconds: int) -> str:
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds // size} {name}"
    return f"{seconds} seconds"


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _print_whole(console: Console, table: Table) -> None:
    """Each row on one line, whatever the terminal's width: ids are for copying, and lines for `grep`."""
    width = Measurement.get(console, console.options.update(max_width=_WIDEST), table).maximum
    Console(file=console.file, width=max(width, console.width)).print(table)


def _cells(*values: object) -> list[Text]:
    return [Text(plain(value)) for value in values]
