"""The local stack: Postgres and Vault running, migrated, provisioned, and what everybody needs to use them."""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit
from uuid import UUID

from service.errors import ConfigurationError, CredentialsError
from service.localstack import identity_tokens, provisioning, vault_tokens
from service.localstack.policies import VaultNames
from service.localstack.postgres_server import blocking, running_postgres
from service.localstack.state_dir import StateDir
from service.localstack.vault_admin import VaultAdmin
from service.localstack.vault_binary import find_vault
from service.localstack.vault_server import RunningVault, running_vault
from service.postgres.migrate import create_login, installation_id, migrate
from service.settings import Settings, load_settings

RUNTIME_ROLE = "credentials_runtime"
ROTATOR_ROLE = "credentials_rotator"
_FACTS = "stack.json"
_MINTING_TOKEN = "minting.token"  # noqa: S105 - a file's name

STATE_DIR_VARIABLE = "CREDENTIALS_LOCAL_STATE_DIR"
"""By this variable of a stack's `env`, another stack started in the same shell knows what to ignore."""


@dataclass(frozen=True)
class LocalStack:
    """A stack that runs. Nothing in its `repr` is secret."""

    state_dir: Path
    vault: RunningVault
    names: VaultNames
    installation_id: UUID
    operator_token: str = field(repr=False)
    role_id: str
    secret_id_file: Path
    oidc_issuer: str
    owner_database_url: str = field(repr=False)
    database_url: str = field(repr=False)
    """As the runtime's role, which owns nothing."""
    rotator_role_id: str
    rotator_secret_id_file: Path
    rotator_database_url: str = field(repr=False)
    """As the rotator's role, which owns nothing either."""
    postgres_origin: str

    @property
    def postgres_address(self) -> str:
        """Where Postgres is and which database: `host:port/name`, without user and password."""
        parts = urlsplit(self.database_url)
        return parts.netloc.rpartition("@")[2] + parts.path

    def environment(self, *, port: int | None = None) -> dict[str, str]:
        """What another process needs to use this stack, as environment variables."""
        variables = {
            STATE_DIR_VARIABLE: str(self.state_dir),
            "DATABASE_URL": self.database_url,
            "CREDENTIALS_OWNER_DATABASE_URL": self.owner_database_url,
            "VAULT_ADDR": self.vault.address,
            "VAULT_TOKEN": self.operator_token,
            "CREDENTIALS_VAULT_LOGIN": "approle",
            "CREDENTIALS_VAULT_AUTH_MOUNT": self.names.approle,
            "CREDENTIALS_VAULT_ROLE_ID": self.role_id,
            "CREDENTIALS_VAULT_SECRET_ID_FILE": str(self.secret_id_file),
            "CREDENTIALS_ROTATOR_DATABASE_URL": self.rotator_database_url,
            "CREDENTIALS_ROTATOR_VAULT_LOGIN": "approle",
            "CREDENTIALS_ROTATOR_VAULT_AUTH_MOUNT": self.names.approle,
            "CREDENTIALS_ROTATOR_VAULT_ROLE_ID": self.rotator_role_id,
            "CREDENTIALS_ROTATOR_VAULT_SECRET_ID_FILE": str(self.rotator_secret_id_file),
            "CREDENTIALS_TRANSIT_MOUNT": self.names.transit,
            "CREDENTIALS_TRANSIT_KEY_PREFIX": self.names.key_prefix,
            "CREDENTIALS_KV_MOUNT": self.names.kv,
            "CREDENTIALS_OIDC_ISSUER": self.oidc_issuer,
            "CREDENTIALS_OIDC_AUDIENCE": identity_tokens.AUDIENCE,
            "CREDENTIALS_OIDC_USER_CLAIM": identity_tokens.USER_CLAIM,
        }
        if self.vault.namespace:
            variables["VAULT_NAMESPACE"] = self.vault.namespace
        if self.vault.cacert:
            variables["VAULT_CACERT"] = self.vault.cacert
            if self.oidc_issuer.startswith(self.vault.address):
                variables["CREDENTIALS_OIDC_CACERT"] = self.vault.cacert
        if port is not None:
            variables["SERVICE_URL"] = f"http://127.0.0.1:{port}"
        return variables

    def settings(self, **overrides: Any) -> Settings:
        """Settings for a service or library on this stack; the rest is as the environment has it."""
        given: dict[str, Any] = {
            "database_url": self.database_url,
            "vault_addr": self.vault.address,
            "vault_namespace": self.vault.namespace,
            "vault_cacert": self.vault.cacert,
            "vault_login": "approle",
            "vault_auth_mount": self.names.approle,
            "vault_role_id": self.role_id,
            "vault_secret_id": None,
            "vault_secret_id_file": self.secret_id_file,
            "vault_secret_id_wrapped": False,
            "rotator_database_url": self.rotator_database_url,
            "rotator_vault_login": "approle",
            "rotator_vault_auth_mount": self.names.approle,
            "rotator_vault_role_id": self.rotator_role_id,
            "rotator_vault_secret_id": None,
            "rotator_vault_secret_id_file": self.rotator_secret_id_file,
            "rotator_vault_secret_id_wrapped": False,
            "transit_mount": self.names.transit,
            "transit_key_prefix": self.names.key_prefix,
            "kv_mount": self.names.kv,
            "oidc_issuer": self.oidc_issuer,
            "oidc_audience": identity_tokens.AUDIENCE,
            "oidc_user_claim": identity_tokens.USER_CLAIM,
            "oidc_roles_claim": "roles",
            "oidc_role_names": {},
        }
        if self.vault.cacert and self.oidc_issuer.startswith(self.vault.address):
            given["oidc_cacert"] = self.vault.cacert
        return load_settings(**{**given, **overrides})

    def note(self, *, port: int | None = None) -> None:
        """Writes down what `vault-credentials env` and `token` tell, in the state folder."""
        StateDir(self.state_dir).write_json(
            _FACTS,
            {
                "environment": self.environment(port=port),
                "own": [name for name, ours in (("vault", self.vault.is_ours), ("postgres", _is_own(self))) if ours],
            },
        )


@contextmanager
def local_stack(
    state_dir: Path,
    environment: Mapping[str, str],
    progress: Callable[[str], None],
    types: Sequence[str] = provisioning.CREDENTIAL_TYPES,
) -> Iterator[LocalStack]:
    """A stack for as long as the block lasts. What was started is stopped afterwards, and nothing else; data stays.

    `environment` is asked for `VAULT_ADDR`, `VAULT_TOKEN`, `DATABASE_URL` (as the tables' owner),
    `CREDENTIALS_LOCAL_VAULT` and the names of mounts; `types`: of credentials. Start it from a thread that lives as
    long as the stack.

    Raises:
        ConfigurationError: the state folder is in use, there is no way to a Vault, a server does not start.
        InstallationMismatch: Vault and Postgres do not belong together.
    """
    state = StateDir(state_dir)
    state.create()
    with state.locked():
        given = _without_own(environment, state)
        names = VaultNames(
            transit=given.get("CREDENTIALS_TRANSIT_MOUNT") or VaultNames.transit,
            kv=given.get("CREDENTIALS_KV_MOUNT") or VaultNames.kv,
            approle=given.get("CREDENTIALS_VAULT_AUTH_MOUNT") or VaultNames.approle,
            key_prefix=given.get("CREDENTIALS_TRANSIT_KEY_PREFIX") or VaultNames.key_prefix,
        )
        source = find_vault(given, progress)  # first, as it may take minutes
        with running_postgres(given.get("DATABASE_URL") or None, state, progress) as postgres:
            progress(f"Postgres: {postgres.origin}")
            with running_vault(source, state, progress) as vault, vault.admin() as admin:
                progress(f"Vault: {vault.origin}")
                keys = [names.type_key(each) for each in types]
                blocking(migrate(postgres.owner_url, transit_keys=keys))
                installation = blocking(installation_id(postgres.owner_url))
                if vault.is_ours:
                    # Before there is anything to audit, so that its log misses nothing.
                    provisioning.ensure_audited(admin, vault.audit_path, progress)
                provisioning.provision(admin, installation, names, types)
                if not vault.is_ours:
                    provisioning.ensure_audited(admin, None, progress)
                vault_tokens.ensure_roles(admin, names)
                _keep(state, _MINTING_TOKEN, lambda kept: provisioning.minting_token(admin, kept))
                runtime = provisioning.runtime_login(admin, names, state.read("secret-id"))
                rotator = provisioning.rotator_login(admin, names, state.read("rotator.secret-id"))
                yield LocalStack(
                    state_dir=state.path,
                    vault=vault,
                    names=names,
                    installation_id=installation,
                    operator_token=_keep(
                        state,
                        "operator.token",
                        lambda kept: provisioning.operator_token(
                            admin, names, kept, is_ours=vault.is_ours, types=types
                        ),
                    ),
                    role_id=runtime.role_id,
                    secret_id_file=state.write("secret-id", runtime.secret_id),
                    oidc_issuer=identity_tokens.ensure_issuer(admin, is_ours=vault.is_ours),
                    owner_database_url=postgres.owner_url,
                    database_url=database_login(postgres.owner_url, RUNTIME_ROLE, installation, state),
                    rotator_role_id=rotator.role_id,
                    rotator_secret_id_file=state.write("rotator.secret-id", rotator.secret_id),
                    rotator_database_url=database_login(postgres.owner_url, ROTATOR_ROLE, installation, state),
                    postgres_origin=postgres.origin,
                )


def noted_environment(state_dir: Path) -> dict[str, str]:
    """What `LocalStack.note` wrote of the stack that runs in this folder.

    Raises:
        ConfigurationError: none is running there; or the folder is somebody else's, or a symbolic link.
    """
    state = StateDir(state_dir)
    state.check_owner()
    noted = state.read_json(_FACTS).get("environment") or {}
    if not noted or not state.is_in_use():
        raise ConfigurationError(
            f"no stack is running in {state.path}: start one with `vault-credentials run --state-dir {state.path}`"
        )
    return dict(noted)


def mint_token(state_dir: Path, role: str, subject: str) -> str:
    """A JWT from the Vault of the stack that runs in this folder; see `identity_tokens.mint`.

    It is asked for with a token of its own, which `env` does not print: whoever can mint can be anybody.
    Raises as `noted_environment` and `identity_tokens.mint`.
    """
    with _minting(state_dir) as vault:
        return identity_tokens.mint(vault, role, subject)


def mint_vault_token(state_dir: Path, role: str, subject: str) -> str:
    """A token of that Vault's, for its UI and CLI; see `vault_tokens.mint`. Asked for and raising as `mint_token`."""
    with _minting(state_dir) as vault:
        return vault_tokens.mint(vault, role, subject)


def _minting(state_dir: Path) -> VaultAdmin:
    variables = noted_environment(state_dir)
    return VaultAdmin(
        variables["VAULT_ADDR"],
        StateDir(state_dir).read(_MINTING_TOKEN),
        namespace=variables.get("VAULT_NAMESPACE"),
        cacert=variables.get("VAULT_CACERT"),
    )


def _is_own(stack: LocalStack) -> bool:
    return stack.postgres_origin != "DATABASE_URL"


def _without_own(environment: Mapping[str, str], state: StateDir) -> dict[str, str]:
    """The environment without what `vault-credentials env` told a shell before, of this stack or of another one."""
    given = dict(environment)
    marked = given.pop(STATE_DIR_VARIABLE, None)
    facts = state.read_json(_FACTS)
    noted, own = facts.get("environment") or {}, facts.get("own") or []
    # This stack's own servers are started again, not given. Names of mounts stay: the servers have them.
    if "vault" in own and given.get("VAULT_ADDR") == noted.get("VAULT_ADDR"):
        for name in ("VAULT_ADDR", "VAULT_TOKEN"):
            given.pop(name, None)
    if "postgres" in own and given.get("DATABASE_URL") in (
        noted.get("DATABASE_URL"),
        noted.get("CREDENTIALS_OWNER_DATABASE_URL"),
    ):
        given.pop("DATABASE_URL", None)
    if marked:
        other = StateDir(Path(marked))
        if other.path != state.path:
            other.check_owner()
            told = other.read_json(_FACTS).get("environment") or {}
            given = {name: value for name, value in given.items() if told.get(name) != value}
    return given


def _keep(state: StateDir, name: str, kept_or_new: Callable[[str | None], str]) -> str:
    """A token that is kept in the state folder, made or renewed by `kept_or_new`."""
    token = kept_or_new(state.read(name))
    state.write(name, token)
    return token


def database_login(owner_url: str, role: str, installation: UUID, state: StateDir) -> str:
    """The URL of a login of this group role, with a password of this state folder's."""
    name = f"{role}_{installation.hex[:8]}"
    kept = f"{role.removeprefix('credentials_')}.password"
    password = state.read(kept)
    if password is None:
        password = secrets.token_hex(24)  # hex needs no escaping in a URL
        state.write(kept, password)
    try:
        blocking(create_login(owner_url, name=name, password=password, member_of=role))
    except CredentialsError:
        raise ConfigurationError("DATABASE_URL: that user may not create the service's login roles") from None
    parts = urlsplit(owner_url)
    query = urlencode([pair for pair in parse_qsl(parts.query) if pair[0] not in ("user", "password")])
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{name}:{password}@{host}", query=query))
