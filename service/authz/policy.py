"""Who may do what: one table, and everything that is not in it is denied. Pure: no I/O, no framework, no clock.

`authorise` turns an identity and a permission into the access that the domain's functions ask for by type, so that
code which was not authorised has nothing to call them with.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import Self

from service.errors import AccountTypeRefused, InvalidInput, PermissionDenied
from service.modules.input_checks import check_user_id
from service.modules.records import (
    AccountType,
    AuditAccess,
    ImportAccess,
    KeyAdminAccess,
    KeyReadAccess,
    OwnerAccess,
    ReadAccess,
    SuspensionAccess,
    SuspensionReadAccess,
)

ON_BEHALF_HEADER = "X-User-Id"
ACCOUNT_TYPE_HEADER = "X-Require-Account-Type"


class Role(StrEnum):
    """What a caller is. A token may carry several."""

    USER = "user"
    ORCHESTRATOR = "orchestrator"
    OPERATOR = "operator"
    AUDITOR = "auditor"


class Permission(StrEnum):
    """What can be asked for. The values are what a token's limits claim names under `actions`."""

    STORE = "credentials:store"
    READ = "credentials:read"
    UPDATE = "credentials:update"
    DELETE = "credentials:delete"
    ROLL_BACK = "credentials:rollback"
    VALIDATE = "credentials:validate"
    VALIDATE_GIVEN = "credentials:validate-given"  # keys in the request, which are not stored
    HAND_OFF = "credentials:handoff"  # a wrapping token for the plaintext
    PROXY = "credentials:proxy"  # calls that read: GET, HEAD
    TRADE = "credentials:trade"  # proxied calls of any other method
    READ_EVENTS = "credentials:events"
    READ_KEYS = "keys:read"  # and jobs
    ADMINISTER_KEYS = "keys:administer"  # rotate, rewrap, retire, stop a job
    READ_SUSPENSIONS = "suspensions:read"
    ADMINISTER_SUSPENSIONS = "suspensions:administer"
    IMPORT = "credentials:import"  # from elsewhere, for whichever users; no secret can be read by it


class Scope(Enum):
    """Whose credentials a right is about."""

    OWN = "own"  # the caller's
    ON_BEHALF = "on behalf"  # those of the user named in X-User-Id
    ALL = "all"  # everybody's, to read
    KEYS = "keys"  # nobody's: transit keys, and jobs about them
    SUSPENSIONS = "suspensions"  # nobody's: whose may not be used
    IMPORT = "import"  # those of the users that a source names, to store and to compare with it


_OWNERS: Mapping[Role, Scope] = MappingProxyType({Role.USER: Scope.OWN, Role.ORCHESTRATOR: Scope.ON_BEHALF})
_OWNERS_AND_AUDITORS: Mapping[Role, Scope] = MappingProxyType({**_OWNERS, Role.AUDITOR: Scope.ALL})

TABLE: Mapping[Permission, Mapping[Role, Scope]] = MappingProxyType(
    {
        Permission.STORE: _OWNERS,
        Permission.READ: _OWNERS_AND_AUDITORS,
        Permission.UPDATE: _OWNERS,
        Permission.DELETE: _OWNERS,
        Permission.ROLL_BACK: _OWNERS,
        Permission.VALIDATE: _OWNERS,
        Permission.VALIDATE_GIVEN: _OWNERS,
        Permission.HAND_OFF: {Role.ORCHESTRATOR: Scope.ON_BEHALF},
        Permission.PROXY: _OWNERS,
        Permission.TRADE: _OWNERS,
        Permission.READ_EVENTS: _OWNERS_AND_AUDITORS,
        Permission.READ_KEYS: {Role.OPERATOR: Scope.KEYS, Role.AUDITOR: Scope.KEYS},
        Permission.ADMINISTER_KEYS: {Role.OPERATOR: Scope.KEYS},
        Permission.READ_SUSPENSIONS: {Role.OPERATOR: Scope.SUSPENSIONS, Role.AUDITOR: Scope.SUSPENSIONS},
        Permission.ADMINISTER_SUSPENSIONS: {Role.OPERATOR: Scope.SUSPENSIONS},
        Permission.IMPORT: {Role.OPERATOR: Scope.IMPORT},
    }
)
"""The whole of it. A role that a permission doesn't name is denied."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a token is limited to, whatever its roles. None: not limited in this."""

    users: frozenset[str] | None = None
    actions: frozenset[str] | None = None

    @classmethod
    def parse(cls, claim: object) -> Self:
        """Reads `{"users": [...], "actions": [...]}`, either optional.

        Anything else allows nothing: a limit that is not understood must not become none. That includes further
        members, which may be limits that a later version knows.
        """
        if not isinstance(claim, dict) or not claim.keys() <= {"users", "actions"}:
            return cls(frozenset(), frozenset())
        lists = list(claim.values())
        if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists):
            return cls(frozenset(), frozenset())
        users, actions = claim.get("users"), claim.get("actions")
        return cls(
            None if users is None else frozenset(users),
            None if actions is None else frozenset(actions),
        )

    def allow(self, user_id: str | None, permission: Permission) -> bool:
        """Whether both the user and the action are within the limits. None: everybody, which no list of users is."""
        return (self.users is None or user_id in self.users) and (
            self.actions is None or permission.value in self.actions
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who is calling, as the token says; made by `authz.identity` after the token was verified."""

    subject: str
    roles: frozenset[Role]
    limits: Limits | None = None  # None: the token has no limits claim


def authorise(
    identity: Identity, permission: Permission, on_behalf_of: str | None, *, request_id: str | None = None
) -> ReadAccess:
    """Decides, and returns the access that goes with the right.

    `on_behalf_of` is the X-User-Id header, None where there is none. With it, only an orchestrator's right counts.
    Without it, the caller's own (OWN) goes before everybody's (ALL), so that a user who is an auditor too sees
    their own where they act as a user.

    Raises:
        PermissionDenied: no role of the caller has the right, or the token's limits don't include it.
        InvalidInput: an orchestrator names no user, or names one that can't be a user's name.
    """
    rights = {role: scope for role, scope in TABLE.get(permission, {}).items() if role in identity.roles}
    acting_for_others = next((role for role, scope in rights.items() if scope is Scope.ON_BEHALF), None)

    if on_behalf_of is not None:
        if acting_for_others is None:
            raise PermissionDenied
        check_user_id(on_behalf_of, ON_BEHALF_HEADER)
        _within_limits(identity, on_behalf_of, permission)
        return OwnerAccess(user_id=on_behalf_of, actor=_actor(acting_for_others, identity), request_id=request_id)

    for role, scope in rights.items():
        if scope is Scope.OWN:
            _within_limits(identity, identity.subject, permission)
            return OwnerAccess(user_id=identity.subject, actor=_actor(role, identity), request_id=request_id)
    for role, scope in rights.items():
        if scope is Scope.ALL:
            _within_limits(identity, None, permission)
            return AuditAccess(actor=_actor(role, identity), request_id=request_id)
    if acting_for_others is not None:
        raise InvalidInput(ON_BEHALF_HEADER, "is required: an orchestrator names the user it acts for")
    raise PermissionDenied


def authorise_owner(
    identity: Identity, permission: Permission, on_behalf_of: str | None, *, request_id: str | None = None
) -> OwnerAccess:
    """As `authorise`, for what only an owner's access can do. Raises PermissionDenied for an auditor's too."""
    access = authorise(identity, permission, on_behalf_of, request_id=request_id)
    if not isinstance(access, OwnerAccess):
        raise PermissionDenied
    return access


def required_account_type(
    access: OwnerAccess, header: str | None, *, refuse_live: bool, refuse_live_roles: Collection[str]
) -> OwnerAccess:
    """The access, with the account type that what it saves or uses must have.

    `header` is X-Require-Account-Type, None where there is none. Where live is refused, by the setting or for the
    access's role, it is paper whatever the header says.

    Raises:
        InvalidInput: the header is neither `paper` nor `live`.
        AccountTypeRefused: it demands live, and that is refused.
    """
    known: dict[str | None, AccountType | None] = {None: None, "paper": "paper", "live": "live"}
    if header not in known:
        raise InvalidInput(ACCOUNT_TYPE_HEADER, "must be paper or live")
    required = known[header]
    if refuse_live or role_of(access.actor) in refuse_live_roles:
        if required == "live":
            raise AccountTypeRefused
        required = "paper"
    return replace(access, account_type=required)


def role_of(actor: str) -> str:
    """The role in an actor's name; `library` for an embedding program's."""
    return actor.partition(":")[0]


def authorise_key_reading(
    identity: Identity, on_behalf_of: str | None, *, request_id: str | None = None
) -> KeyReadAccess:
    """The right to see keys and jobs. Raises PermissionDenied, also where a user is named to act for."""
    return KeyReadAccess(actor=_nobodys_actor(identity, Permission.READ_KEYS, on_behalf_of), request_id=request_id)


def authorise_key_administration(
    identity: Identity, on_behalf_of: str | None, *, request_id: str | None = None
) -> KeyAdminAccess:
    """The right to change keys. Raises as `authorise_key_reading`."""
    actor = _nobodys_actor(identity, Permission.ADMINISTER_KEYS, on_behalf_of)
    return KeyAdminAccess(actor=actor, request_id=request_id)


def authorise_suspension_reading(
    identity: Identity, on_behalf_of: str | None, *, request_id: str | None = None
) -> SuspensionReadAccess:
    """The right to see who is suspended. Raises as `authorise_key_reading`."""
    actor = _nobodys_actor(identity, Permission.READ_SUSPENSIONS, on_behalf_of)
    return SuspensionReadAccess(actor=actor, request_id=request_id)


def authorise_suspension(
    identity: Identity, on_behalf_of: str | None, *, request_id: str | None = None
) -> SuspensionAccess:
    """The right to suspend, and to lift it. Raises as `authorise_key_reading`."""
    actor = _nobodys_actor(identity, Permission.ADMINISTER_SUSPENSIONS, on_behalf_of)
    return SuspensionAccess(actor=actor, request_id=request_id)


def authorise_import(
    identity: Identity,
    on_behalf_of: str | None,
    *,
    request_id: str | None = None,
    refuse_live: bool = False,
    refuse_live_roles: Collection[str] = (),
) -> ImportAccess:
    """The right to import, of paper accounts alone where live ones are refused. Raises as `authorise_key_reading`."""
    actor = _nobodys_actor(identity, Permission.IMPORT, on_behalf_of)
    paper_alone = refuse_live or role_of(actor) in refuse_live_roles
    return ImportAccess(actor=actor, request_id=request_id, account_type="paper" if paper_alone else None)


_NOBODYS = (Scope.KEYS, Scope.SUSPENSIONS, Scope.IMPORT)


def _nobodys_actor(identity: Identity, permission: Permission, on_behalf_of: str | None) -> str:
    rights = TABLE.get(permission, {})
    role = next((role for role, scope in rights.items() if scope in _NOBODYS and role in identity.roles), None)
    if role is None or on_behalf_of is not None:
        raise PermissionDenied
    _within_limits(identity, None, permission)
    return _actor(role, identity)


def _within_limits(identity: Identity, user_id: str | None, permission: Permission) -> None:
    if identity.limits is not None and not identity.limits.allow(user_id, permission):
        raise PermissionDenied


def _actor(role: Role, identity: Identity) -> str:
    # No role has a colon in its name, so this reads back in one way only.
    return f"{role.value}:{identity.subject}"
