"""What the routes use of the process's runtime, which `composition.py` builds and `app.py` hangs on the app."""

from typing import Annotated, Protocol

from fastapi import Depends, Request

from service.modules.credential_reader import CredentialReader
from service.modules.credential_validator import CredentialValidator
from service.modules.credential_writer import CredentialWriter
from service.modules.handoff import HandOffs
from service.modules.key_inventory import KeyInventory
from service.modules.key_jobs import KeyJobs
from service.modules.proxy import Proxy
from service.modules.rate_limits import RateLimits
from service.modules.readiness import Readiness
from service.modules.suspensions import Suspensions
from service.settings import Settings


class Runtime(Protocol):
    """The parts that answer requests. `composition.Runtime` is one; the API must not import that (layers)."""

    @property
    def settings(self) -> Settings: ...
    @property
    def reader(self) -> CredentialReader: ...
    @property
    def writer(self) -> CredentialWriter: ...
    @property
    def validator(self) -> CredentialValidator: ...
    @property
    def hand_offs(self) -> HandOffs: ...
    @property
    def proxy(self) -> Proxy: ...
    @property
    def rate_limits(self) -> RateLimits: ...
    @property
    def keys(self) -> KeyInventory: ...
    @property
    def key_jobs(self) -> KeyJobs: ...
    @property
    def suspensions(self) -> Suspensions: ...
    @property
    def readiness(self) -> Readiness: ...


async def _runtime(request: Request) -> Runtime:
    runtime: Runtime = request.app.state.runtime
    return runtime


ApiRuntime = Annotated[Runtime, Depends(_runtime)]
"""The process's runtime, as a route's parameter."""
