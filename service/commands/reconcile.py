"""`vault-credentials reconcile`: what a crash left between Vault and Postgres, or a restore of one of them."""

from typing import TYPE_CHECKING, Annotated

import typer

from service.errors import ConfigurationError, CredentialUnreadable

if TYPE_CHECKING:
    from service.commands.reconcile_output import Found, Treated
    from service.composition import Runtime
    from service.modules.key_ports import KeyRing
    from service.modules.skew_records import Examined, SkewReport
    from service.settings import Settings

_ACTOR = "reconcile"
_AT_ONCE = 16
_TAMPERED = "its row was changed by hand to lead elsewhere: nothing is done about it here"
_NEEDS_KEYS = "set the rotator's logins, as a worker has them, to have this found out: CREDENTIALS_ROTATOR_…"
_CHANGED = "it was changed meanwhile: look again"


def reconcile(
    apply: Annotated[bool, typer.Option("--apply", help="Mend what is found.")] = False,
    scan: Annotated[bool, typer.Option("--scan", help="Compare all of KV with all rows as well.")] = False,
    skew: Annotated[
        bool,
        typer.Option("--skew", help="After a restore of Vault or of Postgres: compare all rows with Vault, first."),
    ] = False,
    in_json: Annotated[bool, typer.Option("--json", help="JSON, for programs.")] = False,
) -> None:
    """Mends what a crash left between Vault and Postgres. Settings are from the environment.

    Without --apply it is a dry run: it counts what is due and changes nothing.

    Each write to Vault is noted in Postgres before it is made; what is noted and never finished is DUE after some time.
    With --apply each of these is settled: its ciphertext is REMOVED, or KEPT because the credential uses it after all,
    or it is HELD BY A WRITER, which is still at work on it, and is left for the next time.

    With --skew it says of each credential that doesn't fit what Vault has of it what to do; with --apply too, it pins
    those anew whose secret, or a newer one, Vault proves to have. That takes the rotator's logins too
    (CREDENTIALS_ROTATOR_…), and decrypts nothing. Exit status 1 where something is left that somebody has to do.

    Each credential and each path has a line of its own, which begins with what it is: mended, mendable, left,
    no_action; broken, skewed, unaccounted.
    """
    import asyncio
    import json

    from service.commands.reconcile_output import Found, as_json, as_lines
    from service.composition import Runtime
    from service.observability import configure_logging
    from service.settings import load_settings

    settings = load_settings()
    configure_logging("WARNING")
    if skew and apply and settings.as_rotator() is None:
        raise ConfigurationError(f"CREDENTIALS_ROTATOR_DATABASE_URL: is not set; {_NEEDS_KEYS}")
    found = Found(applied=apply)

    async def work() -> None:
        async with Runtime.open(settings) as runtime:
            if skew:
                await _mend_skew(runtime, settings, found)
            found.reconciled = await runtime.reconciler.run(apply=apply)
            if scan:
                found.scanned = await runtime.reconciler.scan(apply=apply)

    try:
        asyncio.run(work())
    finally:
        if not found.empty:  # what was done is told, though what came after it failed
            typer.echo(json.dumps(as_json(found), indent=2) if in_json else "\n".join(as_lines(found)))
    if found.anything_left:
        raise typer.Exit(1)


async def _mend_skew(runtime: "Runtime", settings: "Settings", found: "Found") -> None:
    """Finds what doesn't fit, and mends what can be mended where that is wanted."""
    from contextlib import AsyncExitStack

    from rich.console import Console

    from service.composition import key_ring

    async with AsyncExitStack() as stack:
        with Console(stderr=True).status("comparing …") as status:
            report = await runtime.skew.full(progress=lambda seen: status.update(f"compared {seen} credentials"))
            keys = None
            if report.credentials and settings.as_rotator() is not None:
                keys = await stack.enter_async_context(key_ring(settings))
            found.treated = await _treat_all(runtime, report, keys, apply=found.applied)
            found.skew = report
            if found.applied and report.keys:
                report.keys = (await runtime.skew.quick()).keys  # what is mended is no skew of its key any more


async def _treat_all(
    runtime: "Runtime", report: "SkewReport", keys: "KeyRing | None", *, apply: bool
) -> "list[Treated]":
    import asyncio

    limit = asyncio.Semaphore(_AT_ONCE)

    async def one(examined: "Examined") -> "Treated":
        async with limit:
            return await _treat(runtime, examined, keys, apply=apply)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(each)) for each in report.credentials]
    return [task.result() for task in tasks]


async def _treat(runtime: "Runtime", examined: "Examined", keys: "KeyRing | None", *, apply: bool) -> "Treated":
    """What was done about a credential, or is to be done."""
    from service.commands.reconcile_output import State, Treated
    from service.modules.skew_mending import Remedy

    def treated(state: State, remedy: str, told: str, *, kv: int | None = None, secret: int | None = None) -> Treated:
        return Treated(
            id=examined.credential.id,
            kinds=examined.kinds,
            matters=examined.matters,
            state=state,
            remedy=remedy,
            told=told,
            kv_version=kv,
            secret_version=secret,
        )

    if keys is None:
        return treated(State.LEFT, "set_rotator_logins", _NEEDS_KEYS)
    try:
        diagnosis = await runtime.skew_mender.diagnose(examined, keys)
    except CredentialUnreadable:
        return treated(State.LEFT, "tampered", _TAMPERED)
    remedy, repin = diagnosis.remedy, diagnosis.repin
    if diagnosis.can_be_mended and apply and not await runtime.skew_mender.mend(diagnosis, actor=_ACTOR):
        return treated(State.LEFT, "look_again", _CHANGED)
    if remedy in (Remedy.REPIN, Remedy.ANNOTATE):
        state = State.MENDED if apply else State.MENDABLE
    else:
        state = State.NO_ACTION if remedy is Remedy.NONE_NEEDED else State.LEFT
    if repin is None or repin.kv_version == diagnosis.credential.reference.kv_version:
        return treated(state, remedy.value, remedy.meaning)
    return treated(state, remedy.value, remedy.meaning, kv=repin.kv_version, secret=repin.secret_version)
