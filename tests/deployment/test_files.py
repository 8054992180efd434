"""The files of deploy/: their processes start with production settings and minimal rights."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from opsjobs import __version__, settings
from opsjobs.composition.liveness import LAG_SECONDS_MAX
from opsjobs.composition.worker import CLOSE_SECONDS, STOP_GRACE_SECONDS
from opsjobs.model.winrm import HTTP_PORT, HTTPS_PORT

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
OURS = ("job-migrate", "job-backup", "job-api", "job-worker", "job-scheduler")
SECRETS = {
    "database-url": "postgresql://opsjobs:x@db.example.org/opsjobs?sslmode=verify-full",
    "redis-url": "rediss://:0123456789abcdef@redis.example.org:6379/0",
    "encryption-keys": "dzpPopuI4_KNx-qnj3WNpMLS2v0Vek-qyopYqciI7cE",
    "admin-token": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822c",
}


def documents(path: Path) -> list[dict[str, Any]]:
    return [found for found in YAML(typ="safe").load_all(path.read_text()) if found]


def unknown(names: Mapping[str, object]) -> set[str]:
    return set(names) - settings.names()


# --- compose


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return what `make deploy-env` writes."""
    return deploy_env(tmp_path)


def deploy_env(folder: Path) -> dict[str, str]:
    (folder / "deploy").mkdir(parents=True)
    (folder / "scripts").mkdir()
    shutil.copy2(ROOT / "scripts" / "deploy-env", folder / "scripts")
    subprocess.run([folder / "scripts" / "deploy-env"], check=True, capture_output=True)
    lines = (folder / "deploy" / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def compose(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the services, with the variables replaced as compose does it."""

    def value(match: re.Match[str]) -> str:
        name, _, default = match[1].partition(":-")
        name, _, complaint = name.partition(":?")
        assert name in environment or default or not complaint, f"{name} is not made by deploy-env"
        return environment.get(name, default)

    text = re.sub(r"\$\{([^}]+)\}", value, (DEPLOY / "compose.yaml").read_text())
    services: dict[str, Any] = YAML(typ="safe").load(text)["services"]
    return services


def test_deploy_env_makes_secrets_for_one_reader_and_keeps_those_that_are_there(
    tmp_path: Path,
) -> None:
    first, second = deploy_env(tmp_path / "a"), deploy_env(tmp_path / "b")
    made = tmp_path / "a" / "deploy" / ".env"
    assert made.stat().st_mode & 0o777 == 0o600
    assert not {*first.values()} & {*second.values()}
    assert all(len(value) >= 44 for value in first.values())
    before = made.read_bytes()
    again = subprocess.run(
        [tmp_path / "a" / "scripts" / "deploy-env"], capture_output=True, text=True, check=False
    )
    assert again.returncode == 1
    assert "stays as it is" in again.stderr
    assert made.read_bytes() == before
    assert [path.name for path in made.parent.iterdir()] == [".env"]


def test_every_process_of_compose_has_settings_that_production_accepts(
    environment: dict[str, str],
) -> None:
    services = compose(environment)
    for name in OURS:
        given = {key: str(text) for key, text in services[name]["environment"].items()}
        assert unknown(given) == set()
        found = settings.for_service(settings.load(given))
        assert found.security.environment == "production"
        assert (found.security.admin_token is not None) == (name == "job-api")


def test_no_container_of_compose_has_rights_that_it_does_not_need(
    environment: dict[str, str],
) -> None:
    services = compose(environment)
    assert set(services) == {*OURS, "job-db", "job-redis"}
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["user"] not in ("", "root", "0"), name
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}, name
        assert not {"privileged", "cap_add", "network_mode", "pid", "ipc"} & service.keys(), name
    assert {n: s["ports"] for n, s in services.items() if "ports" in s} == {
        "job-api": ["127.0.0.1:8003:8003"]
    }
    networks = YAML(typ="safe").load((DEPLOY / "compose.yaml").read_text())["networks"]
    assert networks["data"]["internal"] is True
    assert [services[n]["networks"] for n in ("job-db", "job-redis")] == [["data"], ["data"]]


def test_the_processes_wait_for_the_migration_and_stop_in_time(
    environment: dict[str, str],
) -> None:
    services = compose(environment)
    for name in ("job-api", "job-worker", "job-scheduler"):
        after = services[name]["depends_on"]
        assert after["job-migrate"]["condition"] == "service_completed_successfully"
        assert services[name]["restart"] == "unless-stopped"
        assert services[name]["healthcheck"]["test"][:3] == ["CMD", "opsjobs", "healthcheck"]
    assert seconds(services["job-worker"]["stop_grace_period"]) > worker_stop_seconds()


def worker_stop_seconds() -> float:
    return settings.load({}).worker.drain_seconds + 2 * STOP_GRACE_SECONDS + CLOSE_SECONDS


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


# --- the image


def test_the_image_leaves_out_the_embedded_servers_and_does_not_run_as_root() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    with (ROOT / "pyproject.toml").open("rb") as file:
        wanted = tomllib.load(file)["project"]["dependencies"]
    left_out = re.search(r"startswith\(\((.*?)\)\)", dockerfile)
    assert left_out is not None
    for name in re.findall(r'"([\w-]+)"', left_out[1]):
        assert any(dependency.startswith(name) for dependency in wanted), f"{name} is no dependency"
    assert "\nUSER 10001:10001\n" in dockerfile
    assert 'ENTRYPOINT ["opsjobs"]' in dockerfile


def test_a_backup_is_made_and_restored_with_the_image(environment: dict[str, str]) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert re.search(r"apt-get install .* postgresql-client ", dockerfile)
    service = compose(environment)["job-backup"]
    assert service["profiles"] == ["backup"], "`up` must not start it"
    command, folder, *options = service["command"]
    assert (command, options) == ("backup", ["--keys", "/tmp/opsjobs.keys"])
    assert service["volumes"] == [f"job-backups:{folder}"]
    # A new volume has the owner of the folder that it covers.
    assert f"install --directory --owner 10001 --group 10001 --mode 0700 {folder}\n" in dockerfile
    page = (ROOT / "docs" / "how-to" / "deploy-with-compose.md").read_text()
    assert "run --rm job-backup\n" in page
    assert f"run --rm job-backup restore {folder}/opsjobs-" in page


def test_what_is_built_is_named_and_secrets_are_not_among_it() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split("\n*\n")[1].split()
    assert [line for line in ignored if line.startswith("!")] == [
        "!pyproject.toml",
        "!README.md",
        "!LICENSE",
        "!hatch_build.py",
        "!console",
        "!src",
    ]


# --- systemd

UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
PROCESSES = [unit for unit in UNITS if "migrate" not in unit.name]


def lines(unit: Path) -> list[tuple[str, str]]:
    found = []
    for line in unit.read_text().splitlines():
        name, is_assignment, value = line.partition("=")
        if is_assignment and not line.startswith("#"):
            found.append((name, value))
    return found


def test_systemd_understands_the_units(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("this machine cannot verify units: there is no systemd-analyze")
    shutil.copytree(DEPLOY / "systemd", tmp_path, dirs_exist_ok=True)
    for unit in tmp_path.glob("*.service"):
        unit.write_text(unit.read_text().replace("/opt/opsjobs/bin/opsjobs", "/bin/true"))
    names = [unit.name.replace("@.", "@1.") for unit in (*UNITS, DEPLOY / "opsjobs.target")]
    verified = subprocess.run(
        [program, "verify", "--man=no", *(str(tmp_path / name) for name in names)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:", "PATH": "/usr/bin:/bin"},
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    for name in names[:-1]:
        # Of 10; the page says 1.2, and another version of systemd may count a little differently.
        rated = subprocess.run(
            [program, "security", "--offline=yes", "--threshold=15", str(tmp_path / name)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert rated.returncode == 0, rated.stdout


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_hands_over_each_secret_that_its_settings_name(unit: Path, tmp_path: Path) -> None:
    read = lines(unit)
    if "api" in unit.name:
        read += lines(DEPLOY / "systemd" / "opsjobs-api.service.d" / "admin-token.conf")
    given = dict(value.split("=", 1) for name, value in read if name == "Environment")
    assert unknown(given) == set()
    credentials = {value.partition(":")[0] for name, value in read if name == "LoadCredential"}
    assert credentials == {v.removeprefix("%d/") for v in given.values() if v.startswith("%d/")}
    for name in credentials:
        (tmp_path / name).write_text(SECRETS[name])
    found = settings.load({n: v.replace("%d", str(tmp_path)) for n, v in given.items()})
    assert settings.for_service(found).security.environment == "production"


@pytest.mark.parametrize("unit", PROCESSES, ids=lambda unit: unit.name)
def test_a_process_is_watched_and_its_unit_takes_rights_away(unit: Path) -> None:
    read = dict(lines(unit))
    assert (read["Type"], read["NotifyAccess"], read["Restart"]) == ("notify", "main", "always")
    assert float(read["WatchdogSec"]) > LAG_SECONDS_MAX
    assert float(read["TimeoutStopSec"]) > worker_stop_seconds()
    assert (read["NoNewPrivileges"], read["CapabilityBoundingSet"]) == ("yes", "")
    assert (read["ProtectSystem"], read["LimitCORE"]) == ("strict", "0")


# --- Kubernetes

BASE = DEPLOY / "kubernetes" / "base"


def objects() -> Iterator[dict[str, Any]]:
    for name in documents(BASE / "kustomization.yaml")[0]["resources"]:
        yield from documents(BASE / name)


def pods() -> dict[str, dict[str, Any]]:
    """Return the template of each workload."""
    return {
        found["metadata"]["name"]: found["spec"]["template"]
        for found in objects()
        if found["kind"] in ("Deployment", "Job")
    }


def test_every_manifest_is_listed() -> None:
    listed = documents(BASE / "kustomization.yaml")[0]["resources"]
    assert sorted([*listed, "kustomization.yaml"]) == sorted(p.name for p in BASE.glob("*.yaml"))


@pytest.mark.parametrize("name", sorted(pods()))
def test_a_pod_has_settings_that_production_accepts(name: str, tmp_path: Path) -> None:
    spec = pods()[name]["spec"]
    container = spec["containers"][0]
    text = (BASE / "settings.env").read_text().split()
    given = dict(line.split("=", 1) for line in text)
    for variable in container["env"]:
        given[variable["name"]] = variable.get("value", SECRETS["admin-token"])
    assert unknown(given) == set()
    mount = "/run/secrets/opsjobs"
    assert mount in {volume["mountPath"] for volume in container["volumeMounts"]}
    expected = {key for found in example_secrets() for key in found["stringData"]}
    for key in expected:
        (tmp_path / key).write_text(SECRETS[key])
    found = settings.load({n: v.replace(mount, str(tmp_path)) for n, v in given.items()})
    assert settings.for_service(found).security.environment == "production"
    assert spec["enableServiceLinks"] is False, "else OPSJOBS_API_PORT is the address of a Service"


def example_secrets() -> list[dict[str, Any]]:
    return documents(DEPLOY / "kubernetes" / "secret.example.yaml")


def test_the_template_of_the_secrets_has_no_values() -> None:
    assert {text for found in example_secrets() for text in found["stringData"].values()} == {""}


@pytest.mark.parametrize("name", sorted(pods()))
def test_a_pod_has_no_rights_that_it_does_not_need(name: str) -> None:
    spec = pods()[name]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"].keys() == {"requests", "limits"}


def test_deployments_are_probed_and_have_time_to_stop() -> None:
    for found in objects():
        if found["kind"] != "Deployment":
            continue
        spec = found["spec"]["template"]["spec"]
        container = spec["containers"][0]
        ports = {port["name"] for port in container["ports"]}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe]["httpGet"]["port"] in ports
        assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
        assert spec["terminationGracePeriodSeconds"] > worker_stop_seconds() + 5


def test_selectors_find_the_pods_that_they_mean() -> None:
    labels = [pod["metadata"]["labels"] for pod in pods().values()]
    selectors = []
    for found in objects():
        spec = found.get("spec", {})
        if found["kind"] == "Service":
            selectors.append(spec["selector"])
        elif found["kind"] in ("Deployment", "PodDisruptionBudget"):
            selectors.append(spec["selector"]["matchLabels"])
        elif found["kind"] == "NetworkPolicy":
            selectors.append(spec["podSelector"]["matchLabels"])
    assert len(selectors) == 8
    for selector in selectors:
        assert any(selector.items() <= given.items() for given in labels), selector


def test_the_ports_of_targets_are_open() -> None:
    policies = documents(BASE / "network-policy.yaml")
    (policy,) = (found for found in policies if found["metadata"]["name"] == "opsjobs")
    ports = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    assert {22, HTTP_PORT, HTTPS_PORT} <= ports


def test_the_example_names_this_version() -> None:
    (overlay,) = documents(DEPLOY / "kubernetes" / "overlays" / "example" / "kustomization.yaml")
    assert overlay["images"][0]["newTag"] == __version__
    assert f"OPSJOBS_VERSION:-{__version__}}}" in (DEPLOY / "compose.yaml").read_text()
    literals = dict(line.split("=", 1) for line in overlay["configMapGenerator"][0]["literals"])
    assert unknown(literals) == set()
