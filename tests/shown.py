"""Every way of showing what a program holds: the locals of frames that are stopped or have raised, and their values."""

import dataclasses
import functools
import gc
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import AsyncGeneratorType, CoroutineType, FrameType, FunctionType, GeneratorType, MethodType
from typing import Any

from pydantic import BaseModel
from rich.traceback import Traceback

import service
from service.memory.revealed import RevealedSecret
from tests.evidence import TESTS

_SERVICE = str(Path(service.__file__).parent)


def stopped_frames(below: str = _SERVICE) -> Iterator[FrameType]:
    """The frames of all coroutines and generators that are waiting, whose code is in this folder.

    By the collector's list, as a chain of awaited objects breaks off at asynchronous generators.
    """
    for found in gc.get_objects():
        frame: FrameType | None = None
        if isinstance(found, CoroutineType):
            frame = found.cr_frame
        elif isinstance(found, AsyncGeneratorType):
            frame = found.ag_frame
        elif isinstance(found, GeneratorType):
            frame = found.gi_frame
        if frame is not None and frame.f_code.co_filename.startswith(below):
            yield frame


def shown_of_stopped_frames() -> dict[str, str]:
    """What `shown` says of every local of the service's stopped frames, by place."""
    evidence: dict[str, str] = {}
    seen: dict[int, object] = {}
    for frame in stopped_frames():
        place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_qualname}"
        for name, value in dict(frame.f_locals).items():
            key = f"{place} {name}"
            evidence[key] = evidence.get(key, "") + "\n".join(shown(value, seen))
    return evidence


def shown(value: object, seen: dict[int, object] | None = None) -> Iterator[str]:
    """`repr`, `str`, `format` and `vars` of a value, and of whatever it holds that is the service's or a container.

    Of a `RevealedSecret` the `repr` alone: its `str` and `format` reveal, as they have to. What is in `seen` is passed
    over, and what is shown is added.
    """
    seen = {} if seen is None else seen  # holds the values too, so that no id is used twice
    waiting = [value]
    while waiting:
        next_one = waiting.pop()
        if id(next_one) in seen:
            continue
        seen[id(next_one)] = next_one
        yield from _texts(next_one)
        waiting += _parts(next_one)


def _texts(value: object) -> Iterator[str]:
    yield _attempt(repr, value)
    if isinstance(value, RevealedSecret):
        yield repr(value[:10])
        return
    yield _attempt(str, value)
    yield _attempt(format, value)
    yield _attempt(lambda held: repr([held]) + repr({"held": held}) + f"{(held, held)}", value)
    yield _attempt(lambda held: repr(vars(held)), value)


def _attempt(how: Any, value: object) -> str:
    try:
        return str(how(value))
    except Exception:  # noqa: BLE001 - whatever cannot be shown this way isn't
        return ""


def _parts(value: object) -> list[object]:
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        return [value.__self__]
    if isinstance(value, FunctionType) and _is_ours(value.__module__):
        return [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
    if isinstance(value, BaseException):
        return [*value.args, *vars(value).values()]
    is_open = isinstance(value, BaseModel) or (dataclasses.is_dataclass(value) and not isinstance(value, type))
    if is_open or _is_ours(type(value).__module__):
        slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
        held = [getattr(value, name, None) for name in slots if not name.startswith("__")]
        return [*held, *getattr(value, "__dict__", {}).values()]
    return []


def _is_ours(module: str | None) -> bool:
    # What a server or a client in this process hangs on its own callbacks is theirs.
    return module is not None and module.startswith("service.")


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - asked for, to see whether it is there
    except ValueError:
        return False
    return True


def shown_by_reporters(error: BaseException) -> dict[str, str]:
    """An exception as the standard library and rich show it, with the locals of every frame that is not a test's."""
    report = traceback.TracebackException.from_exception(error, capture_locals=True)
    return {
        "traceback": "\n".join(_frames_of(report)),
        "rich": "\n".join(_by_rich(error, limited=False)),
        "rich as it comes": "\n".join(_by_rich(error, limited=True)),
        "error": "\n".join(shown(error)),
    }


def _frames_of(report: traceback.TracebackException | None) -> Iterator[str]:
    while report is not None:
        report.stack = traceback.StackSummary.from_list(
            [frame for frame in report.stack if not frame.filename.startswith(TESTS)]
        )
        yield from report.format(chain=False)
        report = report.__cause__ or report.__context__


def _by_rich(error: BaseException, *, limited: bool) -> Iterator[str]:
    """What rich renders, without the wrapping that would cut secrets in two. `limited`: long texts are shortened."""
    limits: dict[str, Any] = {} if limited else {"locals_max_length": None, "locals_max_string": None}
    trace = Traceback.extract(
        type(error),
        error,
        error.__traceback__,
        show_locals=True,
        locals_hide_dunder=False,
        locals_hide_sunder=False,
        **limits,
    )
    for stack in trace.stacks:
        yield f"{stack.exc_type}: {stack.exc_value}"
        for frame in stack.frames:
            if not frame.filename.startswith(TESTS):
                yield f"{frame.filename} {frame.name}"
                yield from (f"{name} = {node}" for name, node in (frame.locals or {}).items())
