"""Dockerfile, docker-compose.yml and their docs, as text: what is promised of the containers, without Docker."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.localstack import compose_jobs, vault_container
from service.settings import Settings
from tests import containers

CHECKOUT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("prepare", "provision", "service", "worker")
JOBS = ("prepare", "provision")
DOCKERFILE = (CHECKOUT / "Dockerfile").read_text()
FINAL_STAGE = DOCKERFILE.rpartition("\nFROM ")[2]
DOCS = (CHECKOUT / "docs" / "containers.md").read_text()

services = pytest.mark.parametrize("name", sorted(SERVICES))


def default(value: str) -> tuple[str, str]:
    """The variable, and what is used without it."""
    given = re.fullmatch(r"\$\{(\w+):-(.+)\}", value)
    assert given, f"not overridable: {value}"
    return given[1], given[2]


def mounts(name: str) -> dict[str, tuple[str, bool]]:
    """Volume to path, and whether it is read-only."""
    parts = [each.split(":") for each in SERVICES[name].get("volumes", [])]
    return {part[0]: (part[1], part[2:] == ["ro"]) for part in parts}


@services
def test_every_image_is_pinned_and_can_be_another(name: str) -> None:
    _, image = default(SERVICES[name]["image"])
    repository, _, tag = image.rpartition(":")
    assert repository
    assert tag == "local" if name in OURS else re.fullmatch(r"\d+(\.\d+)+", tag)


def test_the_base_image_is_pinned_and_can_be_another() -> None:
    given = re.search(r"^ARG PYTHON_IMAGE=(.+)$", DOCKERFILE, re.MULTILINE)
    assert given
    assert re.fullmatch(r"python:3\.\d+-slim-[a-z]+", given[1])
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["${PYTHON_IMAGE}", "${PYTHON_IMAGE}"]
    assert default(SERVICES["service"]["build"]["args"]["PYTHON_IMAGE"]) == ("PYTHON_IMAGE", given[1])
    assert len({SERVICES[name]["image"] for name in OURS}) == 1


def test_every_image_can_be_pinned_by_its_digest() -> None:
    # The variable is the whole reference: with a tag behind it in the file, `name@sha256:…` would be none.
    pinned = f"registry.test:5000/some/name@sha256:{'0' * 64}"
    places = [SERVICES[name]["image"] for name in SERVICES] + [SERVICES["service"]["build"]["args"]["PYTHON_IMAGE"]]
    for place in places:
        variable, _ = default(place)
        assert re.sub(r"\$\{" + variable + r":-[^}]*\}", pinned, place) == pinned
        assert f"`{variable}`" in DOCS
    assert "docker buildx imagetools inspect" in DOCS
    assert "@sha256:" in DOCS


def test_tests_and_compose_use_the_same_servers() -> None:
    assert default(SERVICES["vault"]["image"])[1] == vault_container.IMAGE
    assert default(SERVICES["postgres"]["image"])[1] == containers.POSTGRES_IMAGE


def test_only_the_service_and_the_vault_ui_are_published_and_on_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"service", "vault"}
    for ports in published.values():
        assert len(ports) == 1
        assert re.fullmatch(r"127\.0\.0\.1:\$\{\w+:-\d+\}:\d+", ports[0])
    assert not any("network_mode" in service and service["network_mode"] != "none" for service in SERVICES.values())


def test_postgres_reaches_nothing_outside_and_nothing_outside_reaches_it() -> None:
    assert SERVICES["postgres"]["networks"] == ["data"]
    assert COMPOSE["networks"]["data"] == {"internal": True}


@services
def test_no_secret_is_in_an_environment_variable(name: str) -> None:
    for variable, value in SERVICES[name].get("environment", {}).items():
        assert variable != "DATABASE_URL"
        assert variable.endswith("_FILE") or not re.search("PASSWORD|SECRET|TOKEN|PRIVATE", variable), variable
        assert "@" not in str(value)
    assert "env_file" not in SERVICES[name]
    assert not re.search("password=|secret|token=", " ".join(SERVICES[name].get("command", [])))


@services
def test_every_container_has_no_more_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service.get("cap_add", []) == (["IPC_LOCK"] if name == "vault" else [])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert service["pids_limit"] > 0
    assert not service.get("privileged")
    assert not any("docker.sock" in volume for volume in service.get("volumes", []))


@services
def test_no_container_runs_as_root(name: str) -> None:
    if name in OURS:
        assert "user" not in SERVICES[name]
        assert re.findall(r"^USER (.+)$", FINAL_STAGE, re.MULTILINE) == ["10001:10001"]
    else:
        assert SERVICES[name]["user"] == name


@services
def test_what_is_waited_for_can_be_waited_for(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        condition = how["condition"]
        if condition == "service_completed_successfully":
            assert other in JOBS
        elif condition == "service_healthy":
            assert SERVICES[other]["healthcheck"]["test"]
        else:
            assert (name, other) == ("provision", "vault")  # which unseals it


def test_servers_are_checked_and_waited_for() -> None:
    for name in ("vault", "postgres", "service"):
        assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"
    for name in ("service", "worker"):
        assert set(SERVICES[name]["depends_on"]) == {"provision", "vault", "postgres"}
    assert re.search(r"^HEALTHCHECK .+ CMD \[.*service\.probe", FINAL_STAGE, re.MULTILINE)


def test_the_service_has_time_to_end_what_is_under_way_before_docker_kills_it() -> None:
    takes = sum(Settings.model_fields[name].default for name in ("drain_seconds", "grace_seconds"))
    assert takes > 0
    for name in ("service", "worker"):
        seconds = re.fullmatch(r"(\d+)s", SERVICES[name]["stop_grace_period"])
        assert seconds
        assert int(seconds[1]) >= takes + 10  # closing the connections, on a machine that is busy
        for variable in ("CREDENTIALS_DRAIN_SECONDS", "CREDENTIALS_GRACE_SECONDS"):
            assert variable not in SERVICES[name]["environment"], "count it in above"
            assert f"`{variable}`" in DOCS
    assert "STOPSIGNAL" not in DOCKERFILE  # SIGTERM


def test_the_unseal_key_is_in_a_volume_that_one_job_alone_has() -> None:
    assert [name for name in SERVICES if "keys" in mounts(name)] == ["provision"]


def test_each_container_has_its_own_secrets_alone_and_read_only() -> None:
    assert mounts("service") == {"service-settings": ("/run/settings", True)}
    assert mounts("worker") == {"worker-settings": ("/run/settings", True)}
    assert mounts("vault")["vault-tls"] == ("/vault/tls", True)
    assert mounts("postgres")["postgres-secrets"] == ("/run/postgres-secrets", True)
    secret = {"keys", "vault-tls", "postgres-secrets", "service-settings", "worker-settings"}
    assert not secret & set(mounts("postgres")) - {"postgres-secrets"}
    assert not secret & set(mounts("vault")) - {"vault-tls"}


def test_the_image_has_a_folder_for_each_volume_of_its_jobs() -> None:
    # Without one Docker makes it, for root, and the job can't write there.
    made = {
        name for line in re.findall(r"install -d .+ -m 07\d0 ([a-z][a-z -]+)", FINAL_STAGE) for name in line.split()
    }
    used = {Path(path) for name in JOBS for path, _ in mounts(name).values()}
    assert {path.parent for path in used} == {compose_jobs.FOLDER}
    assert {path.name for path in used} <= made
    assert set(COMPOSE["volumes"]) == {volume for name in SERVICES for volume in mounts(name) if volume[0] != "."}


def test_every_variable_given_to_our_image_is_a_setting() -> None:
    variables = {"CREDENTIALS_SETTINGS_DIR"}
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        variables.add(alias.choices[0] if alias is not None else f"CREDENTIALS_{name.upper()}")  # type: ignore[union-attr,arg-type]
    for name in OURS:
        assert set(SERVICES[name].get("environment", {})) <= variables
    assert set(re.findall(r"CREDENTIALS_\w+(?==)", FINAL_STAGE)) <= variables


def test_memory_is_wiped_in_the_image() -> None:
    shim = re.search(r"CREDENTIALS_ZEROING_SHIM=(\S+)", FINAL_STAGE)
    assert shim
    assert f"install -m 0644 {{}} {shim[1]}" in DOCKERFILE
    assert not re.search(r"CREDENTIALS_(ZEROING|DUMPABLE)=", DOCKERFILE)
    assert not any("CREDENTIALS_ZEROING" in str(service.get("environment")) for service in SERVICES.values())


def test_nothing_in_the_working_folder_or_in_a_volume_is_taken_for_a_module() -> None:
    for stage in DOCKERFILE.split("\nFROM ")[1:]:
        assert re.search(r"^(ENV|   ) .*\bPYTHONSAFEPATH=1\b", stage, re.MULTILINE)
    assert re.findall(r"^WORKDIR (.+)$", FINAL_STAGE, re.MULTILINE) == ["/"]
    for service in SERVICES.values():
        assert "working_dir" not in service
        assert not any(name.startswith("PYTHON") for name in service.get("environment", {}))


@services
def test_no_container_writes_a_core_dump(name: str) -> None:
    assert SERVICES[name]["ulimits"]["core"] == 0


def test_no_compiler_and_no_checkout_is_in_the_image() -> None:
    assert "apt-get" not in FINAL_STAGE
    assert re.findall(r"^COPY (.+)$", FINAL_STAGE, re.MULTILINE) == [
        "--from=build /opt/vault-credentials /opt/vault-credentials"
    ]
    assert "sbom.cdx.json" in DOCKERFILE


def test_nothing_is_sent_to_the_daemon_but_what_is_copied() -> None:
    rules = [line for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    build_stage = DOCKERFILE.partition("\nFROM ${PYTHON_IMAGE}\n")[0]
    copied = {each for line in re.findall(r"^COPY (.+)$", build_stage, re.MULTILINE) for each in line.split()[:-1]}
    assert {each for rule in let_in if (each := rule.partition("/*")[0].partition("/provisioning")[0])} == {
        *copied,
        "Dockerfile",
    }


def test_vault_has_tls_alone() -> None:
    config = (CHECKOUT / "containers" / "vault.hcl").read_text()
    assert "tls_disable" not in config
    assert 'tls_min_version = "tls12"' in config
    assert all(url.startswith("https://") for url in re.findall(r"\w+://\S+", config))
    assert "http://" not in str(SERVICES)


def test_the_docs_name_every_variable_and_volume_and_say_where_the_unseal_key_is() -> None:
    text = (CHECKOUT / "docker-compose.yml").read_text()
    for variable in set(re.findall(r"\$\{(\w+):-", text)):
        assert f"`{variable}`" in DOCS, variable
    for volume in COMPOSE["volumes"]:
        assert f"`{volume}`" in DOCS, volume
    assert "unseal key" in DOCS
    assert "not for production" in DOCS.lower()
    for file in ("Dockerfile", "docker-compose.yml"):
        assert file in (CHECKOUT / "README.md").read_text()
