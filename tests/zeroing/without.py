"""Protections, taken away: what each is for shows by what is found without it. Of use to nobody but these tests."""

import asyncio
from collections.abc import Callable
from typing import Any


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _replace(of: object, name: str, value: object) -> None:
    """Says so where there is nothing of this name any more, and so nothing that was taken away."""
    assert hasattr(of, name), f"{of} has no {name}"
    setattr(of, name, value)


def _wiping_revealed_strings() -> None:
    from service.modules import secret_pair

    _replace(secret_pair, "wipe_revealed", _nothing)


def _wiping_plaintext() -> None:
    from service.memory import secret_pages

    def give_back(slot: secret_pages.Slot) -> None:
        slot._class.viewed.append(slot)

    _replace(secret_pages.Slot, "give_back", give_back)


def _wiping_the_wires_buffer() -> None:
    from service.vault import wire_connection
    from service.vault.wire_connection import WireConnection

    def forget(self: WireConnection) -> None:
        self._used = 0

    _replace(wire_connection.WireConnection, "forget", forget)


def _cleansing_tls_records() -> None:
    from service import tls

    _replace(tls, "_SSL_OP_CLEANSE_PLAINTEXT", 0)


def _asyncios_own_loop() -> None:
    import uvloop

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


def _collecting_garbage() -> None:
    import gc

    from service.memory.collector import Collector

    gc.disable()
    _replace(Collector, "collect", _nothing)


def _clearing_the_stack() -> None:
    from service.memory import zeroing

    _replace(zeroing, "_wipe_stack", None)


def _parting_response_and_stream() -> None:
    import httpx

    httpx.Response.__delattr__ = _nothing  # type: ignore[method-assign]


def _keeping_strings_out_of_pydantics_cache() -> None:
    from service.schemas import credential_schemas as schemas

    for model in (
        schemas.StoreCredentialRequest,
        schemas.UpdateCredentialRequest,
        schemas.ValidateCredentialRequest,
    ):
        model.model_config["cache_strings"] = "all"
        model.model_rebuild(force=True)


def _forgetting_injected_headers() -> None:
    from service.providers import upstream

    class Forgetful(upstream.AuthenticatedRequest):
        async def send(self, conn: Any) -> Any:
            if self.authenticate is not None:
                self.headers.update(self.authenticate())
            return await super(upstream.AuthenticatedRequest, self).send(conn)

    _replace(upstream.AuthenticatedRequest, "send", Forgetful.send)


PATCHES: dict[str, Callable[[], None]] = {
    "wiping revealed strings": _wiping_revealed_strings,
    "wiping plaintext": _wiping_plaintext,
    "wiping the wire's buffer": _wiping_the_wires_buffer,
    "SSL_OP_CLEANSE_PLAINTEXT": _cleansing_tls_records,
    "asyncio's own loop": _asyncios_own_loop,
    "collecting garbage": _collecting_garbage,
    "clearing the stack": _clearing_the_stack,
    "parting response and stream": _parting_response_and_stream,
    "forgetting injected headers": _forgetting_injected_headers,
    "cache_strings='none'": _keeping_strings_out_of_pydantics_cache,
}
"""By name, what takes it out of this process. Before anything that it protects is imported by name elsewhere."""


def take_away(names: list[str]) -> None:
    """Takes these protections out of this process."""
    for name in names:
        PATCHES[name]()
