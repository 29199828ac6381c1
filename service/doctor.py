"""`vault-credentials doctor`: what holds for a command that is started now, what doesn't, and how to get it."""

import asyncio
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from service.errors import ConfigurationError, CredentialsError
from service.memory.hardening import Prepared, prepared
from service.memory.secret_pages import SecretBuffer
from service.memory.zeroing import Zeroing
from service.modules.skew_records import SEALS, SEALS_REMEDY, Examined, SkewKind, SkewReport
from service.settings import Settings, load_process_settings, load_settings
from service.settings_files import exposed_files

if TYPE_CHECKING:
    from service.authz.identity import TokenVerifier

_PROBE = """
import dataclasses, json, sys
from service.memory.zeroing import in_force, set_dumpable
set_dumpable(sys.argv[1] == "True")
print(json.dumps(dataclasses.asdict(in_force())))
"""
_PROBE_SECONDS = 60
_NEWEST = 1000
_LISTED = 100
"""Credentials that are named."""


class Verdict(StrEnum):
    """What came of a check."""

    OK = "ok"
    WEAKER = "weaker"
    """It is as good as this machine lets it be, and that is less than it could be elsewhere."""
    WRONG = "wrong"
    UNTRIED = "untried"
    """Nothing was looked at."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    detail: str
    listed: bool = False
    """One of many: a line of its own, also where the others are in a table, which would wrap it."""


def doctor(*, full: bool = False) -> bool:
    """Prints all findings, as a table to a terminal and as lines elsewhere. Whether nothing is wrong.

    `full`: every credential is compared with Vault, and not the newest alone.
    """
    findings = list(diagnose(full=full))
    if sys.stdout.isatty():
        table = Table("what", "", Column("detail", overflow="fold"))
        for each in findings:
            if not each.listed:
                table.add_row(each.name, each.verdict.value, escape(each.detail))
        Console().print(table)
    for each in findings:
        if each.listed or not sys.stdout.isatty():
            print(f"{each.verdict.value:<7} {each.name}: {each.detail}")  # noqa: T201 - what the command is for
    return all(each.verdict is not Verdict.WRONG for each in findings)


def diagnose(*, full: bool = False) -> Iterator[Finding]:
    """Every finding, each found out by trying it: a Python is started with the environment a service would get."""
    try:
        dumpable = load_process_settings().dumpable
        made = prepared(os.environ, by="doctor")
    except ConfigurationError as error:
        yield Finding("zeroing", Verdict.WRONG, str(error))
    else:
        zeroing = _tried(made, dumpable=dumpable)
        if zeroing is None:
            yield Finding("zeroing", Verdict.WRONG, "a Python with the environment it needs does not start")
        else:
            yield from _zeroing(zeroing, made)
    yield _locked_pages()
    yield _core_dumps()
    yield from _connections(full=full)


def _tried(made: Prepared, *, dumpable: bool) -> Zeroing | None:
    try:
        tried = subprocess.run(  # noqa: S603 - this Python, no shell
            # -P: nothing in the folder that the command is given in is taken for a module.
            [sys.executable, "-P", "-c", _PROBE, str(dumpable)],
            env=made.variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_SECONDS,
            check=True,
        )
        return Zeroing(**json.loads(tried.stdout))
    except (OSError, subprocess.SubprocessError, ValueError, TypeError):
        return None


def _advice(problem: str) -> str:
    """How to get the shim, where its own problem doesn't say it already."""
    if "could not be compiled" in problem:
        return "; the extra `zeroing` (PyPI's ziglang) brings a compiler that can"
    if "cannot be written" in problem or "other users" in problem:
        return "; XDG_CACHE_HOME names another folder for it, CREDENTIALS_ZEROING_SHIM one that is built already"
    return ""


def _zeroing(zeroing: Zeroing, made: Prepared) -> Iterator[Finding]:
    if not zeroing.possible:
        yield Finding(
            "zeroing",
            Verdict.WEAKER,
            f"freed memory is not wiped: {made.shim.problem} (this is {zeroing.libc}). "
            "Our own buffers and the yielded strings are",
        )
    elif zeroing.mode == "shim":
        yield Finding(
            "zeroing", Verdict.OK, f"under serve, run and exec all freed memory is wiped, by {made.shim.path}"
        )
    elif zeroing.mode == "tunables":
        yield Finding(
            "zeroing",
            Verdict.WEAKER,
            "freed memory is wiped by glibc's tunables, but for up to the last 8 bytes of a chunk: "
            f"{made.shim.problem}{_advice(made.shim.problem)}",
        )
    else:
        yield Finding(
            "zeroing",
            Verdict.WRONG,
            f"freed memory is not wiped: {made.shim.problem or 'the loader ignored LD_PRELOAD (ld.so(8), AT_SECURE)'}",
        )
    if zeroing.mode != "none":
        yield _holds(
            "small Python objects",
            zeroing.pymalloc_off,
            "are freed by malloc, so wiped like the rest",
            "are not wiped: PYTHONMALLOC=malloc did not take (python -E and -I ignore it)",
        )
    if zeroing.possible:
        yield _holds(
            "linker",
            zeroing.bind_now,
            "binds everything at start",
            "binds at first calls: LD_BIND_NOW=1 did not take",
        )
        yield _holds(
            "other processes",
            not zeroing.dumpable,
            "of the same user may not read the service's memory (root may)",
            "of the same user may read the service's memory: CREDENTIALS_DUMPABLE is for tests alone",
        )


def _holds(name: str, holds: bool, yes: str, no: str) -> Finding:
    return Finding(name, Verdict.OK if holds else Verdict.WRONG, yes if holds else no)


def _locked_pages() -> Finding:
    soft, _hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    limit = "no limit" if soft == resource.RLIM_INFINITY else f"up to {soft // 1024} kB: ulimit -l"
    with SecretBuffer(1) as buffer:
        if buffer.is_locked:
            return Finding("swap", Verdict.OK, f"pages with secrets can be locked into memory ({limit})")
    return Finding("swap", Verdict.WEAKER, f"pages with secrets cannot be locked, so they may be swapped out ({limit})")


def _core_dumps() -> Finding:
    soft, _hard = resource.getrlimit(resource.RLIMIT_CORE)
    detail = "the service allows none for itself"
    if soft == 0:
        return Finding("core dumps", Verdict.OK, f"{detail}, and this shell allows none to a program under `exec`")
    return Finding("core dumps", Verdict.WEAKER, f"{detail}, but a program under `exec` may write one: ulimit -c 0")


def _connections(*, full: bool) -> Iterator[Finding]:
    if not any(os.environ.get(name) for name in ("DATABASE_URL", "VAULT_ADDR", "CREDENTIALS_SETTINGS_DIR")):
        verdict = Verdict.WRONG if full else Verdict.UNTRIED
        yield Finding("settings", verdict, "DATABASE_URL and VAULT_ADDR are not set, so no connection was tried")
        return
    from service.composition import Runtime  # here: it is the whole of the service

    try:
        settings = load_settings()
    except ConfigurationError as error:
        yield Finding("settings", Verdict.WRONG, str(error).removeprefix("settings: "))
        return
    for exposed in exposed_files(settings):
        yield Finding(f"file {exposed.variable}", Verdict.WEAKER, exposed.problem)

    async def checks() -> list[Finding]:
        async with Runtime.open(settings) as runtime:
            tried, issuer, rotator = await asyncio.gather(
                runtime.readiness.check(), _issuer(runtime.identity), _rotator(settings)
            )
            findings = [Finding(each.name, Verdict.OK if each.ok else Verdict.WRONG, each.detail) for each in tried]
            findings += [issuer, rotator]
            if not all(each.ok for each in tried if each.blocking):
                return findings
            # It all works, so there is more to be said than readiness does.
            report = await runtime.skew.full(None if full else _NEWEST, _told_how_far)
            return [each for each in findings if each.name != "skew"] + list(_skew(report))

    try:
        yield from asyncio.run(checks())
    except ConfigurationError as error:
        yield Finding("settings", Verdict.WRONG, str(error).removeprefix("settings: "))
    except CredentialsError as error:  # it worked a moment ago
        yield Finding("skew", Verdict.WRONG, str(error))


async def _issuer(verifier: "TokenVerifier | None") -> Finding:
    """Whether the callers' tokens can be checked. Without an issuer nothing is wrong: a library needs none."""
    if verifier is None:
        told = "CREDENTIALS_OIDC_ISSUER is not set: the service lets nobody in (as a library it needs none)"
        return Finding("issuer", Verdict.UNTRIED, told)
    try:
        keys = await verifier.count_keys()
    except CredentialsError as error:
        told = f"its keys cannot be fetched: {error}; look at CREDENTIALS_OIDC_ISSUER and CREDENTIALS_OIDC_CACERT"
        return Finding("issuer", Verdict.WRONG, told)
    if not keys:
        return Finding("issuer", Verdict.WRONG, "it publishes no key that fits CREDENTIALS_OIDC_ALGORITHMS")
    return Finding("issuer", Verdict.OK, f"its discovery document and keys can be fetched (keys: {keys})")


async def _rotator(settings: Settings) -> Finding:
    """Whether what does the jobs can log in. A process without its logins leaves them to a worker."""
    from service.rotator import login_problems, logs_in_once  # here, as the composition

    try:
        own = settings.as_rotator()
        if own is None:
            told = "CREDENTIALS_ROTATOR_DATABASE_URL is not set here, so its logins were not tried: jobs are a worker's"
            return Finding("rotator", Verdict.UNTRIED, told)
        problems = await login_problems(own)
    except ConfigurationError as error:
        problems = [str(error).removeprefix("settings: ")]
    if problems:
        return Finding("rotator", Verdict.WRONG, "; ".join(map(_of_the_rotator, problems)))
    if own is not None and logs_in_once(own):
        told = "its login to Postgres works; that to Vault was not tried, as its wrapped secret id works once"
        return Finding("rotator", Verdict.UNTRIED, told)
    return Finding("rotator", Verdict.OK, "its logins to Postgres and Vault work")


def _of_the_rotator(problem: str) -> str:
    """With the rotator's settings named as they are set: what reads them knows them by the runtime's names."""
    return re.sub(r"(?<!\w)(?:CREDENTIALS_(?=VAULT_)|(?=DATABASE_URL))", "CREDENTIALS_ROTATOR_", problem)


def _told_how_far(seen: int) -> None:
    """To somebody who waits; the next line is written over it."""
    if sys.stderr.isatty():
        print(f"compared {seen} credentials", end="\r", file=sys.stderr)  # noqa: T201 - what the command is for


def _skew(report: SkewReport) -> Iterator[Finding]:
    """Whether Vault and Postgres are of the same moment; each credential that doesn't fit, and what to do."""
    how_many = f"all {report.examined}" if report.complete else f"the {report.examined} newest"
    if report.fits:
        more = "" if report.complete else "; --full compares the others too"
        yield Finding("skew", Verdict.OK, f"Vault and Postgres fit, as far as {how_many} credentials tell{more}")
    else:
        yield Finding("skew", Verdict.WRONG, str(report.advice()))
    for key in report.keys:
        yield Finding(f"skew of {key.key}", Verdict.WRONG, key.meaning)
    if report.seals is not None:
        yield Finding("skew of the seals", Verdict.WRONG, f"{SEALS[report.seals]} What to do: {SEALS_REMEDY}")
    yield from _not_fitting(report.credentials)


def _not_fitting(credentials: Sequence[Examined]) -> Iterator[Finding]:
    """Each kind once, then ids: those that matter first, and no more of them than can be read."""
    for kind in SkewKind:
        if many := sum(kind in each.kinds for each in credentials):
            verdict = Verdict.WRONG if kind.matters else Verdict.WEAKER
            yield Finding(f"skew {kind.value}", verdict, f"credentials: {many}; {kind.meaning}")
    for each in sorted(credentials, key=lambda each: not each.matters)[:_LISTED]:
        verdict = Verdict.WRONG if each.matters else Verdict.WEAKER
        yield Finding(f"credential {each.credential.id}", verdict, ", ".join(each.kinds), listed=True)
    if not credentials:
        return
    told = "`vault-credentials reconcile --skew` says what to do about each, and does it with --apply"
    if len(credentials) > _LISTED:
        told = f"{len(credentials) - _LISTED} more are not listed here; {told}; with --json for programs"
    is_wrong = any(each.matters for each in credentials)
    yield Finding("credentials", Verdict.WRONG if is_wrong else Verdict.WEAKER, told, listed=True)
