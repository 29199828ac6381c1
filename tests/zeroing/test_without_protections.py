"""What each protection is for: with it taken away, some of the secret is found afterwards.

Where two protections would each do, both are taken away in one case, and each alone in another, of which it is only
printed what was found: nothing, on the machine this was written on. The second one is for other versions of what is
not ours, and for whoever changes the first.
"""

import base64
import secrets
from dataclasses import dataclass

import pytest

from service.composition import Runtime
from tests.support import Stack
from tests.written import Somebody
from tests.zeroing.conftest import Ledger, Way
from tests.zeroing.processes import Found, environment_without, pair, scan, service, target
from tests.zeroing.rest import REQUESTS, Bearer, refused

TRIES = 5
"""Fresh processes, at most: what lies in dead memory is overwritten now and then."""

BATCH = 8


@dataclass(frozen=True)
class Case:
    """Protections taken away, and what is done without them."""

    doing: str
    """`decrypt` (a batch), `refused`, or one of `rest.REQUESTS`."""
    over: str
    without: tuple[str, ...] = ()
    """Names of `without.PATCHES`."""
    variables: tuple[str, ...] = ()
    """Variables of the environment."""
    tunables: bool = False
    """glibc's own way to overwrite what is freed, and not the shim."""

    def __str__(self) -> str:
        gone = ("the shim, with tunables in its place",) if self.tunables else (*self.variables, *self.without)
        return f"{', '.join(gone)}: {self.doing} over {self.over}"


LEAVES = (
    Case("decrypt", "http", ("wiping revealed strings",)),
    Case("decrypt", "http", ("wiping plaintext",)),
    Case("decrypt", "http", ("wiping the wire's buffer",)),
    Case("decrypt", "TLS", ("SSL_OP_CLEANSE_PLAINTEXT",), ("LD_PRELOAD",)),
    Case("store", "http", ("wiping plaintext",)),
    Case("refused", "http", variables=("LD_PRELOAD",)),
    Case("refused", "http", variables=("PYTHONMALLOC",)),
    Case("refused", "http", ("wiping plaintext",)),
    Case("refused", "http", ("asyncio's own loop",)),
    Case("validate_given", "TLS", variables=("LD_PRELOAD",)),
    Case("validate_given", "http", ("clearing the stack",)),
    Case("validate_stored", "http", ("collecting garbage", "parting response and stream")),
)
LEAVES_NOTHING_HERE = (
    Case("decrypt", "TLS", ("SSL_OP_CLEANSE_PLAINTEXT",)),
    Case("decrypt", "TLS", variables=("LD_PRELOAD",)),
    Case("decrypt", "TLS", variables=("LD_BIND_NOW",)),
    Case("store", "TLS", variables=("LD_BIND_NOW",)),
    Case("refused", "http", ("cache_strings='none'",)),
    Case("validate_stored", "http", ("collecting garbage",)),
    Case("validate_stored", "http", ("parting response and stream",)),
)


@pytest.mark.parametrize("case", LEAVES, ids=str)
async def test_without_it_something_is_left(
    case: Case, ways: dict[str, Way], ledger: Ledger, runtime: Runtime, bearer: Bearer
) -> None:
    for _ in range(TRIES):
        found = await _tried(case, ways[case.over], runtime, bearer, ledger)
        if found.windows:
            return
    pytest.fail("nothing was found: does it still protect anything?")


@pytest.mark.parametrize("case", LEAVES_NOTHING_HERE, ids=str)
async def test_without_it_another_protection_does_its_work(
    case: Case, ways: dict[str, Way], ledger: Ledger, runtime: Runtime, bearer: Bearer
) -> None:
    # Nothing is claimed of other machines.
    await _tried(case, ways[case.over], runtime, bearer, ledger)


@pytest.mark.parametrize("gone", ["LD_PRELOAD", "LD_BIND_NOW"])
async def test_the_environment_without_one_of_its_variables_lets_the_control_leave_it(
    gone: str, ways: dict[str, Way], ledger: Ledger, stack: Stack
) -> None:
    """The wire leaves nothing that either would have to see to; httpx and json, with all else in force, do."""
    keys, context = pair(5), base64.b64encode(secrets.token_bytes(32)).decode()
    plaintext = base64.b64encode("\n".join(keys).encode()).decode()
    body = {"plaintext": plaintext, "context": context}
    sealed = stack.vault("POST", "transit/encrypt/credentials-alpaca", body).json()["data"]["ciphertext"]
    told = {"ciphertext": sealed, "context": context, "token": stack.runtime_token()}
    environment = environment_without(ways["http"].environment, gone)
    async with target(environment, "decrypt", told, module="tests.zeroing.control", by_exec=False) as plain:
        await plain.reached("inside")
        plain.go_on()
        await plain.reached("after")
        found = await scan(plain.pid, keys)
    ledger.note("without", f"{gone}: the control, decrypt over http", plain.pid, keys, found)
    # What the linker leaves on the stack depends on how Python was built: 120 windows with a 3.11, none with a 3.13.
    assert found.windows > 0 or gone == "LD_BIND_NOW"


@pytest.mark.parametrize("doing", ["decrypt", "refused", "store"])
async def test_glibcs_tunables_in_the_shims_place_leave_at_most_the_ends_of_chunks(
    doing: str, ways: dict[str, Way], ledger: Ledger, runtime: Runtime, bearer: Bearer
) -> None:
    """The way without a C compiler: up to the last 8 bytes of each freed chunk stay."""
    found = await _tried(Case(doing, "http", tunables=True), ways["http"], runtime, bearer, ledger)
    assert found.windows <= (0 if doing == "decrypt" else 16)


async def _tried(case: Case, way: Way, runtime: Runtime, bearer: Bearer, ledger: Ledger) -> Found:
    environment = environment_without(way.environment, *case.variables)
    if case.tunables:
        environment |= {"LD_PRELOAD": "", "GLIBC_TUNABLES": "glibc.malloc.perturb=165:glibc.malloc.tcache_count=0"}
    if case.doing == "decrypt":
        somebody, pairs = Somebody(), [pair(secrets.randbelow(18)) for _ in range(BATCH)]
        ids = [str((await somebody.store(runtime, each)).id) for each in pairs]
        keys = tuple(key for each in pairs for key in each)
        told = {"ids": ids, "user_id": somebody.user_id, "by": "opener", "without": case.without}
        async with target(environment, "together", told, by_exec=False) as process:
            await process.reached("inside")
            process.go_on()
            await process.reached("after")
            return ledger.note("without", str(case), process.pid, keys, await scan(process.pid, keys))
    makers = {**REQUESTS, "refused": refused}
    request = await makers[case.doing](way, runtime, bearer, secrets.randbelow(18))
    async with (
        service(environment, module="tests.zeroing.served", without=case.without) as served,
        served.client(request.headers) as client,
    ):
        # The first request has the issuer's keys fetched, into memory that the next one's secret may have been in.
        assert (await client.get("/v1/credentials")).is_success
        assert (await request.send(client)).status_code == request.answers
        found = await scan(served.pid, request.keys)
        return ledger.note("without", str(case), served.pid, request.keys, found)
