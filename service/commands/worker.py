"""`vault-credentials worker`: does the jobs that operators ask for, as the rotator, in a process of its own."""

import os

from service.errors import ConfigurationError, CredentialsError, VaultLoginFailed, in_words

_DATABASE = "CREDENTIALS_ROTATOR_DATABASE_URL"


def worker() -> None:
    """Rotates keys, rewraps credentials and retires key versions as jobs ask for it. Ctrl-C ends it, in order.

    Every few seconds it seals the events recorded since: `events verify` finds what is done to them afterwards.

    It has its own logins, which cannot decrypt: CREDENTIALS_ROTATOR_DATABASE_URL for Postgres; for Vault, at
    VAULT_ADDR, CREDENTIALS_ROTATOR_VAULT_ROLE_ID and _SECRET_ID_FILE, say. It needs no DATABASE_URL.

    Several may run at once and share a job. One that is killed loses nothing: what it was at is gone on with by
    another, or by itself when it is started again.
    """
    from service.memory.hardening import harden, log_zeroing

    zeroing = harden("worker")
    import asyncio
    import logging
    import signal

    from service.observability import configure_logging
    from service.rotator import Rotator
    from service.settings import load_settings
    from service.settings_files import log_exposed_files

    # The runtime's is not needed: `as_rotator` puts the rotator's, which may be in a file, in its place.
    given = (
        {}
        if os.environ.get("DATABASE_URL")
        else {"database_url": os.environ.get(_DATABASE, "").strip() or "postgresql:"}
    )
    settings = load_settings(**given)
    rotator_settings = settings.as_rotator()
    if rotator_settings is None:
        raise ConfigurationError(f"{_DATABASE}: is not set")
    configure_logging(settings.log_level)
    log = logging.getLogger(__name__)

    async def work() -> None:
        async with Rotator.open(rotator_settings) as rotator:
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, rotator.stop)
            log_zeroing(zeroing)
            log_exposed_files(settings)
            try:
                await rotator.runner.ensure_same_installation()
            except (ConfigurationError, VaultLoginFailed):
                raise  # somebody has to mend that; waiting doesn't
            except CredentialsError as error:
                log.warning("cannot work yet", extra={"error": type(error).__name__, "detail": in_words(error)})
            else:
                log.info("waiting for jobs")
            await rotator.run()
        log.info("ended")

    asyncio.run(work())
