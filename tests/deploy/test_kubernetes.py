"""The manifests do what they say: their parts fit each other, and the broker."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from keybroker import settings as settings_file
from keybroker.__main__ import _parser
from keybroker.app import LIMIT

if TYPE_CHECKING:
    from tests.deploy.conftest import Objects

NEWS_REACHES_NODES = 5  # seconds until no node sends a caller to a pod that ends, commonly
SECRETS = "/run/secrets/keybroker/"


def of_kind(objects: Objects, kind: str) -> list[dict[str, Any]]:
    """All objects of a kind."""
    return [each for (its, _), each in objects.items() if its == kind]


def settings_text(objects: Objects) -> str:
    """The broker's settings, out of the one ConfigMap."""
    (config,) = of_kind(objects, "ConfigMap")
    text: str = config["data"]["keybroker.toml"]
    return text


def settings_of(objects: Objects) -> settings_file.Settings:
    """The same, parsed."""
    return settings_file.parse(tomllib.loads(settings_text(objects)))


def pod_of(objects: Objects) -> dict[str, Any]:
    """The pod of the one Deployment."""
    (deployment,) = of_kind(objects, "Deployment")
    pod: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return pod


def broker_of(objects: Objects) -> dict[str, Any]:
    """The broker's container."""
    pod = pod_of(objects)
    (broker,) = (each for each in pod["containers"] + pod.get("initContainers", []) if each["name"] == "keybroker")
    found: dict[str, Any] = broker
    return found


@pytest.mark.parametrize("directory", ["deploy/kubernetes/fleet", "deploy/kubernetes/sidecar"])
def test_check_config_finds_the_settings_good(built: dict[str, Objects], directory: str, tmp_path: Path) -> None:
    """The broker's own command accepts the settings in the ConfigMap."""
    config = tmp_path / "keybroker.toml"
    config.write_text(settings_text(built[directory]))
    done = subprocess.run(  # noqa: S603 -- our own command
        [sys.executable, "-m", "keybroker", "check-config", "--config", config],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("directory", ["deploy/kubernetes/fleet", "deploy/kubernetes/sidecar"])
def test_settings_are_mounted_where_the_image_looks_for_them(built: dict[str, Objects], directory: str) -> None:
    """The ConfigMap, by its hashed name, is /etc/keybroker."""
    objects = built[directory]
    (config,) = of_kind(objects, "ConfigMap")
    (volume,) = (each["name"] for each in pod_of(objects)["volumes"] if "configMap" in each)
    assert {"name": volume, "configMap": {"name": config["metadata"]["name"]}} in pod_of(objects)["volumes"]
    assert config["metadata"]["name"] != "keybroker"
    assert {"name": volume, "mountPath": "/etc/keybroker", "readOnly": True} in broker_of(objects)["volumeMounts"]


@pytest.mark.parametrize("directory", ["deploy/kubernetes/fleet", "deploy/kubernetes/sidecar"])
def test_probes_ask_where_the_broker_answers(built: dict[str, Objects], directory: str) -> None:
    """HTTP probes go to the port of [ops], which listens beyond the loopback; none is a gRPC probe."""
    objects = built[directory]
    broker, settings = broker_of(objects), settings_of(objects)
    ports = {each["name"]: each["containerPort"] for each in broker["ports"]}
    assert settings.ops
    assert settings.ops.host_and_port == ("0.0.0.0", ports["ops"])  # noqa: S104 -- kubelet comes from outside
    probes = [broker[name] for name in ("startupProbe", "livenessProbe", "readinessProbe")]
    assert not any("grpc" in probe for probe in probes)
    assert all(probe["httpGet"]["port"] == "ops" for probe in probes if "httpGet" in probe)
    assert broker["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert broker["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_a_broker_of_the_fleet_serves_until_nobody_is_sent_to_it(fleet: Objects) -> None:
    """It is told to end when the service is without it, and is then not killed before it ends by itself."""
    before = broker_of(fleet)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert before >= NEWS_REACHES_NODES
    assert pod_of(fleet)["terminationGracePeriodSeconds"] > before + LIMIT


def test_a_sidecar_ends_after_the_application(sidecar: Objects) -> None:
    """One after the other has its time: Kubernetes' default, and what it takes a broker."""
    assert broker_of(sidecar)["restartPolicy"] == "Always"
    assert pod_of(sidecar)["terminationGracePeriodSeconds"] > 30 + LIMIT


@pytest.mark.parametrize("directory", ["deploy/kubernetes/fleet", "deploy/kubernetes/sidecar"])
def test_every_container_is_confined(built: dict[str, Objects], directory: str) -> None:
    """Read-only root, no capabilities, no escalation, a user that is not root, limits on memory."""
    pod = pod_of(built[directory])
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    for each in pod["containers"] + pod.get("initContainers", []):
        assert each["securityContext"]["readOnlyRootFilesystem"] is True
        assert each["securityContext"]["allowPrivilegeEscalation"] is False
        assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert each["resources"]["limits"]["memory"]


@pytest.mark.parametrize("directory", ["deploy/kubernetes/fleet", "deploy/kubernetes/sidecar"])
def test_the_image_is_of_this_version(built: dict[str, Objects], directory: str) -> None:
    """The tag is the version in pyproject.toml."""
    version = tomllib.loads(Path("pyproject.toml").read_text())["project"]["version"]
    assert broker_of(built[directory])["image"].endswith(f"/keybroker:{version}")


def test_the_application_starts_when_its_broker_serves(sidecar: Objects) -> None:
    """The broker is a sidecar whose start ends with a `keybroker wait` at its own listener."""
    broker, settings = broker_of(sidecar), settings_of(sidecar)
    assert pod_of(sidecar)["initContainers"][-1] is broker
    assert broker["restartPolicy"] == "Always"
    probe = broker["startupProbe"]
    program, *arguments = probe["exec"]["command"]
    parsed = _parser().parse_args(arguments)
    assert program == "keybroker"
    assert parsed.command == "wait"
    assert parsed.target == settings.listeners[0].address
    assert parsed.timeout < probe["timeoutSeconds"]


def test_the_application_can_open_the_socket_and_not_replace_it(sidecar: Objects) -> None:
    """It is another user, in the socket's group, and its mount of the directory is read-only."""
    pod, broker = pod_of(sidecar), broker_of(sidecar)
    (app,) = pod["containers"]
    assert app["securityContext"]["runAsUser"] != broker["securityContext"]["runAsUser"]
    assert broker["securityContext"]["runAsGroup"] in pod["securityContext"]["supplementalGroups"]
    mounts = {each["name"]: each for each in app["volumeMounts"]}
    assert mounts == {"keybroker": {"name": "keybroker", "mountPath": "/run/keybroker", "readOnly": True}}


def test_the_application_is_given_no_aws_credentials(sidecar: Objects) -> None:
    """EKS's webhook leaves out every container but the broker."""
    (deployment,) = of_kind(sidecar, "Deployment")
    template = deployment["spec"]["template"]
    skipped = set(template["metadata"]["annotations"]["eks.amazonaws.com/skip-containers"].split(","))
    named = {each["name"] for each in template["spec"]["containers"] + template["spec"]["initContainers"]}
    assert named - skipped == {"keybroker"}


def test_every_secret_file_of_the_settings_is_mounted(fleet: Objects) -> None:
    """The one volume of secrets has exactly the files that the settings name, unreadable for others."""
    (volume,) = (each for each in pod_of(fleet)["volumes"] if "projected" in each)
    files = [item["path"] for source in volume["projected"]["sources"] for item in source["secret"]["items"]]
    settings = settings_of(fleet)
    (listener,) = settings.listeners
    assert listener.tls
    assert settings.store
    named: list[str | None] = [
        *(listener.tls.certificate, listener.tls.private_key, listener.tls.client_ca),
        *settings.store.seal_keys,
        *(settings.store.password_file, settings.store.ca),
    ]
    assert set(named) == {SECRETS + name for name in files}
    assert volume["projected"]["defaultMode"] == 0o440
    assert pod_of(fleet)["securityContext"]["fsGroup"] == pod_of(fleet)["securityContext"]["runAsGroup"]


def test_fleet_size_covers_a_rolling_update(fleet: Objects) -> None:
    """As many as there are, and as many again that are still ending."""
    (deployment,) = of_kind(fleet, "Deployment")
    settings = settings_of(fleet)
    assert settings.store
    assert settings.store.fleet_size >= 2 * deployment["spec"]["replicas"]


def test_callers_reach_the_listener_through_the_service(fleet: Objects) -> None:
    """Service, container and settings agree on the port, and selectors on the pods."""
    (deployment,) = of_kind(fleet, "Deployment")
    (service,) = of_kind(fleet, "Service")
    (port,) = service["spec"]["ports"]
    ports = {each["name"]: each["containerPort"] for each in broker_of(fleet)["ports"]}
    assert settings_of(fleet).listeners[0].host_and_port[1] == ports[port["targetPort"]]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    (budget,) = of_kind(fleet, "PodDisruptionBudget")
    for selector in (
        service["spec"]["selector"],
        deployment["spec"]["selector"]["matchLabels"],
        budget["spec"]["selector"]["matchLabels"],
        fleet["NetworkPolicy", "keybroker"]["spec"]["podSelector"]["matchLabels"],
        *(each["labelSelector"]["matchLabels"] for each in pod_of(fleet)["topologySpreadConstraints"]),
    ):
        assert selector
        assert selector.items() <= labels.items()


def test_the_network_is_closed_but_for_what_is_named(fleet: Objects) -> None:
    """All pods of the namespace are denied everything; each exception names peers and ports."""
    denied = fleet["NetworkPolicy", "default-deny"]["spec"]
    assert denied == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    allowed = fleet["NetworkPolicy", "keybroker"]["spec"]
    assert all(rule["from"] and rule["ports"] for rule in allowed["ingress"])
    assert all(rule["to"] and rule["ports"] for rule in allowed["egress"])
    assert {port["port"] for rule in allowed["ingress"] for port in rule["ports"]} == {"grpc", "ops"}
    assert {port["port"] for rule in allowed["egress"] for port in rule["ports"]} == {53, 443, 6379}
    assert not any("0.0.0.0/0" in str(peer) for rule in allowed["egress"] for peer in rule["to"])


def test_prometheus_finds_the_ops_port(built: dict[str, Objects]) -> None:
    """The component's monitor selects the component's service, which selects the fleet's pods."""
    objects = built["tests/deploy/monitored"]
    (monitor,) = of_kind(objects, "ServiceMonitor")
    chosen = [
        each
        for each in of_kind(objects, "Service")
        if monitor["spec"]["selector"]["matchLabels"].items() <= each["metadata"].get("labels", {}).items()
    ]
    (service,) = chosen
    assert service["metadata"]["namespace"] == monitor["metadata"]["namespace"]
    assert [each["port"] for each in monitor["spec"]["endpoints"]] == [
        each["name"] for each in service["spec"]["ports"]
    ]
    (deployment,) = of_kind(objects, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
