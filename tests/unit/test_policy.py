"""The table of who may do what, every cell of it, and the rules around it."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.authz.policy import (
    TABLE,
    Identity,
    Limits,
    Permission,
    Role,
    Scope,
    authorise,
    authorise_import,
    authorise_key_administration,
    authorise_key_reading,
    authorise_owner,
    authorise_suspension,
    authorise_suspension_reading,
    required_account_type,
)
from service.errors import AccountTypeRefused, InvalidInput, PermissionDenied
from service.modules.records import (
    AccountType,
    AuditAccess,
    ImportAccess,
    KeyAdminAccess,
    KeyReadAccess,
    OwnerAccess,
    SuspensionAccess,
    SuspensionReadAccess,
)

# Written out, and not derived from what it is compared to: permission; user, orchestrator, operator, auditor.
EXPECTED = """
credentials:store           own   on-behalf  -  -
credentials:read            own   on-behalf  -  all
credentials:update          own   on-behalf  -  -
credentials:delete          own   on-behalf  -  -
credentials:rollback        own   on-behalf  -  -
credentials:validate        own   on-behalf  -  -
credentials:validate-given  own   on-behalf  -  -
credentials:handoff         -     on-behalf  -  -
credentials:proxy           own   on-behalf  -  -
credentials:trade           own   on-behalf  -  -
credentials:events          own   on-behalf  -  all
keys:read                   -     -          keys  keys
keys:administer             -     -          keys  -
suspensions:read            -     -          suspensions  suspensions
suspensions:administer      -     -          suspensions  -
credentials:import          -     -          import  -
"""
CELLS = [
    (Permission(name), role, cell)
    for name, *cells in (line.split() for line in EXPECTED.strip().splitlines())
    for role, cell in zip((Role.USER, Role.ORCHESTRATOR, Role.OPERATOR, Role.AUDITOR), cells, strict=True)
]


def caller(*roles: Role, limits: Limits | None = None) -> Identity:
    return Identity(subject="alice", roles=frozenset(roles), limits=limits)


def test_every_cell_is_written_out() -> None:
    assert {(permission, role) for permission, role, _ in CELLS} == set(itertools.product(Permission, Role))
    assert len(CELLS) == len(Permission) * len(Role)


@pytest.mark.parametrize(("permission", "role", "cell"), CELLS)
def test_the_table_says_what_the_design_says(permission: Permission, role: Role, cell: str) -> None:
    scope = None if cell == "-" else Scope(cell.replace("-", " "))
    assert TABLE[permission].get(role) is scope


@pytest.mark.parametrize(("permission", "role", "cell"), CELLS)
def test_without_the_header_each_role_gets_its_cell(permission: Permission, role: Role, cell: str) -> None:
    if cell == "own":
        assert authorise(caller(role), permission, None) == OwnerAccess(user_id="alice", actor=f"{role}:alice")
    elif cell == "all":
        assert authorise(caller(role), permission, None) == AuditAccess(actor=f"{role}:alice")
    elif cell == "on-behalf":
        with pytest.raises(InvalidInput) as refused:
            authorise(caller(role), permission, None)
        assert refused.value.field == "X-User-Id"
    else:
        with pytest.raises(PermissionDenied):
            authorise(caller(role), permission, None)


@pytest.mark.parametrize(("permission", "role", "cell"), CELLS)
def test_with_the_header_only_an_orchestrator_passes(permission: Permission, role: Role, cell: str) -> None:
    if cell == "on-behalf":
        access = authorise(caller(role), permission, "bob", request_id="r1")
        assert access == OwnerAccess(user_id="bob", actor="orchestrator:alice", request_id="r1")
    else:
        with pytest.raises(PermissionDenied):
            authorise(caller(role), permission, "bob")


NOBODYS_RIGHTS = {
    Permission.READ_KEYS: (authorise_key_reading, KeyReadAccess),
    Permission.ADMINISTER_KEYS: (authorise_key_administration, KeyAdminAccess),
    Permission.READ_SUSPENSIONS: (authorise_suspension_reading, SuspensionReadAccess),
    Permission.ADMINISTER_SUSPENSIONS: (authorise_suspension, SuspensionAccess),
    Permission.IMPORT: (authorise_import, ImportAccess),
}


@pytest.mark.parametrize(("permission", "role", "cell"), [cell for cell in CELLS if cell[0] in NOBODYS_RIGHTS])
def test_keys_and_suspensions_are_seen_and_changed_by_the_roles_of_the_table_alone(
    permission: Permission, role: Role, cell: str
) -> None:
    decide, access = NOBODYS_RIGHTS[permission]
    if cell != "-":
        assert decide(caller(role), None, request_id="r1") == access(actor=f"{role}:alice", request_id="r1")
    else:
        with pytest.raises(PermissionDenied):
            decide(caller(role), None)


@pytest.mark.parametrize("permission", NOBODYS_RIGHTS)
@pytest.mark.parametrize("header", ["bob", "alice", ""])
def test_nobody_acts_on_keys_or_suspensions_for_a_user(permission: Permission, header: str) -> None:
    decide, _ = NOBODYS_RIGHTS[permission]
    with pytest.raises(PermissionDenied):
        decide(caller(*Role), header)


def test_an_operator_who_audits_reads_keys_as_the_operator() -> None:
    both = caller(Role.AUDITOR, Role.OPERATOR)
    assert authorise_key_reading(both, None) == KeyReadAccess(actor="operator:alice")


@pytest.mark.parametrize(
    ("claim", "reads", "administers"),
    [
        ({}, True, True),
        ({"actions": ["keys:read"]}, True, False),
        ({"actions": ["keys:administer"]}, False, True),
        ({"actions": ["credentials:read"]}, False, False),
        ({"users": ["alice"]}, False, False),  # keys are everybody's
        (None, False, False),
    ],
)
def test_a_tokens_limits_hold_for_keys(claim: object, reads: bool, administers: bool) -> None:
    limited = caller(Role.OPERATOR, limits=Limits.parse(claim))
    for decide, allowed in ((authorise_key_reading, reads), (authorise_key_administration, administers)):
        if allowed:
            decide(limited, None)
        else:
            with pytest.raises(PermissionDenied):
                decide(limited, None)


@pytest.mark.parametrize(
    ("claim", "reads", "suspends"),
    [
        ({}, True, True),
        ({"actions": ["suspensions:read"]}, True, False),
        ({"actions": ["suspensions:administer"]}, False, True),
        ({"actions": ["keys:administer"]}, False, False),
        ({"users": ["alice"]}, False, False),  # suspensions are everybody's
        (None, False, False),
    ],
)
def test_a_tokens_limits_hold_for_suspensions(claim: object, reads: bool, suspends: bool) -> None:
    limited = caller(Role.OPERATOR, limits=Limits.parse(claim))
    for decide, allowed in ((authorise_suspension_reading, reads), (authorise_suspension, suspends)):
        if allowed:
            decide(limited, None)
        else:
            with pytest.raises(PermissionDenied):
                decide(limited, None)


# --- paper or live ----------------------------------------------------------------------------------------------------

# Is live refused everywhere, and for the caller's role; what the header says; what it comes to.
REQUIRED = """
no  no   -      any
no  no   paper  paper
no  no   live   live
no  yes  -      paper
no  yes  paper  paper
no  yes  live   refused
yes no   -      paper
yes no   paper  paper
yes no   live   refused
yes yes  -      paper
yes yes  paper  paper
yes yes  live   refused
"""


@pytest.mark.parametrize("row", REQUIRED.strip().splitlines())
@pytest.mark.parametrize("role", ["user", "orchestrator", "library"])
def test_where_live_is_refused_by_setting_or_role_no_header_brings_it_back(row: str, role: str) -> None:
    everywhere, for_role, header, expected = row.split()
    access = OwnerAccess(user_id="alice", actor=f"{role}:alice", request_id="r1")
    given = None if header == "-" else header
    roles = {role} if for_role == "yes" else {"user", "orchestrator", "library"} - {role}
    if expected == "refused":
        with pytest.raises(AccountTypeRefused):
            required_account_type(access, given, refuse_live=everywhere == "yes", refuse_live_roles=roles)
        return
    required = required_account_type(access, given, refuse_live=everywhere == "yes", refuse_live_roles=roles)
    account_types: dict[str, AccountType | None] = {"any": None, "paper": "paper", "live": "live"}
    assert required == replace(access, account_type=account_types[expected])


@pytest.mark.parametrize("header", ["", "Paper", "LIVE", " paper", "paper,live", "any", "none", "pap\u00e9r"])
@pytest.mark.parametrize("refuse", [False, True])
def test_a_required_account_type_that_is_none_is_refused_and_not_repeated(header: str, refuse: bool) -> None:
    access = OwnerAccess(user_id="alice", actor="user:alice")
    with pytest.raises(InvalidInput) as refused:
        required_account_type(access, header, refuse_live=refuse, refuse_live_roles=())
    assert str(refused.value) == "X-Require-Account-Type: must be paper or live"


def test_a_subject_that_is_named_like_a_role_is_of_its_own_role() -> None:
    access = OwnerAccess(user_id="bob", actor="orchestrator:user:library")
    assert required_account_type(access, None, refuse_live=False, refuse_live_roles={"user", "library"}) == access


@pytest.mark.parametrize("permission", list(Permission))
@pytest.mark.parametrize("header", [None, "bob", ""])
def test_a_caller_without_roles_may_nothing(permission: Permission, header: str | None) -> None:
    with pytest.raises(PermissionDenied):
        authorise(caller(), permission, header)


def test_a_user_may_not_name_even_themselves_in_the_header() -> None:
    with pytest.raises(PermissionDenied):
        authorise(caller(Role.USER), Permission.READ, "alice")


def test_of_several_roles_the_header_takes_the_orchestrators_and_its_absence_the_users() -> None:
    both = caller(Role.USER, Role.ORCHESTRATOR, Role.AUDITOR)
    assert authorise(both, Permission.READ, "bob") == OwnerAccess(user_id="bob", actor="orchestrator:alice")
    assert authorise(both, Permission.READ, None) == OwnerAccess(user_id="alice", actor="user:alice")


def test_an_orchestrator_who_audits_reads_all_without_the_header() -> None:
    both = caller(Role.ORCHESTRATOR, Role.AUDITOR)
    assert authorise(both, Permission.READ, None) == AuditAccess(actor="auditor:alice")


def test_an_auditors_access_is_never_an_owners() -> None:
    with pytest.raises(PermissionDenied):
        authorise_owner(caller(Role.AUDITOR), Permission.READ, None)


@pytest.mark.parametrize("name", ["", "a\0b", "a\nb", "\x1b[2J", "\x85", "\udcff", "ü" * 257, " bob", "b\u200bob"])
def test_an_orchestrator_cannot_act_for_a_name_that_is_none(name: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        authorise(caller(Role.ORCHESTRATOR), Permission.STORE, name)
    assert refused.value.field == "X-User-Id"
    assert not name or name not in str(refused.value)


@pytest.mark.parametrize(
    ("claim", "user", "permission", "allowed"),
    [
        ({}, "bob", Permission.STORE, True),
        ({"users": ["bob"]}, "bob", Permission.STORE, True),
        ({"users": ["bob"]}, "eve", Permission.STORE, False),
        ({"users": []}, "bob", Permission.STORE, False),
        ({"actions": ["credentials:read"]}, "bob", Permission.READ, True),
        ({"actions": ["credentials:read"]}, "bob", Permission.STORE, False),
        ({"actions": []}, "bob", Permission.READ, False),
        ({"users": ["bob"], "actions": ["credentials:read"]}, "bob", Permission.READ, True),
        ({"users": ["bob"], "actions": ["credentials:read"]}, "eve", Permission.READ, False),
        ({"users": ["bob"], "actions": ["credentials:read"]}, "bob", Permission.STORE, False),
        # what is malformed allows nothing
        (None, "bob", Permission.READ, False),
        ([], "bob", Permission.READ, False),
        ("", "bob", Permission.READ, False),
        ({"users": "bob"}, "bob", Permission.READ, False),
        ({"users": None}, "bob", Permission.READ, False),
        ({"users": ["bob", 1]}, "bob", Permission.READ, False),
        ({"actions": {"credentials:read": True}}, "bob", Permission.READ, False),
        ({"accounts": ["x"]}, "bob", Permission.READ, False),
        ({"user": ["bob"]}, "bob", Permission.READ, False),
    ],
)
def test_a_tokens_limits_hold_for_an_orchestrator_and_for_a_user(
    claim: object, user: str, permission: Permission, allowed: bool
) -> None:
    limits = Limits.parse(claim)
    for limited, header in (
        (caller(Role.ORCHESTRATOR, limits=limits), user),
        (Identity(subject=user, roles=frozenset({Role.USER}), limits=limits), None),
    ):
        if allowed:
            authorise(limited, permission, header)
        else:
            with pytest.raises(PermissionDenied):
                authorise(limited, permission, header)


@pytest.mark.parametrize(
    ("claim", "allowed"),
    [
        ({}, True),
        ({"actions": ["credentials:read"]}, True),
        ({"actions": ["credentials:events"]}, False),
        ({"users": ["alice", "bob"]}, False),  # everybody's is more than theirs
        ({"users": []}, False),
        ({"users": ["alice"], "actions": ["credentials:read"]}, False),
        (None, False),
    ],
)
def test_a_tokens_limits_hold_for_an_auditor(claim: object, allowed: bool) -> None:
    limited = caller(Role.AUDITOR, limits=Limits.parse(claim))
    if allowed:
        assert authorise(limited, Permission.READ, None) == AuditAccess(actor="auditor:alice")
    else:
        with pytest.raises(PermissionDenied):
            authorise(limited, Permission.READ, None)


def test_a_limited_user_who_audits_too_gets_nothing_wider_instead() -> None:
    both = caller(Role.USER, Role.AUDITOR, limits=Limits(users=frozenset({"bob"})))
    with pytest.raises(PermissionDenied):
        authorise(both, Permission.READ, None)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["users", "actions", "x"]), inner),
)


@given(_json)
def test_a_limits_claim_only_ever_narrows_to_what_it_names(claim: object) -> None:
    limits = Limits.parse(claim)
    if limits.users is None or limits.actions is None:
        assert isinstance(claim, dict)
        assert (limits.users is None) == ("users" not in claim)
        assert (limits.actions is None) == ("actions" not in claim)
