"""The chart as helm renders it: rights, command lines, certificates, and values that are refused."""

from __future__ import annotations

import base64
import functools
import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from brain import config as brain_config
from brain import lease
from deploy.local import binaries
from n8s import names
from nodeagent import config as agent_config
from webhook import config as webhook_config

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "nebulnetes"
SIMULATED = {"agent": {"gpuDriver": "simulated"}}


@pytest.fixture(scope="session")
def helm() -> Path:
    return binaries.ensure()["helm"]


def template(helm: Path, values: dict[str, Any], served: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Renders the chart for a cluster that serves some APIs besides those that helm takes for granted."""
    return _template(helm, json.dumps(values, sort_keys=True), tuple(served))


@functools.cache
def _template(helm: Path, values: str, served: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    argv = [str(helm), "template", "rel", str(CHART), "--namespace", "ns", "--values", "-"]
    argv += [f"--api-versions={each}" for each in served]
    return subprocess.run(argv, input=values, capture_output=True, text=True, check=False)


class Rendered:
    """The objects of a rendered chart."""

    def __init__(self, helm: Path, served: Sequence[str] = (), **values: Any) -> None:
        done = template(helm, _merged(SIMULATED, values), served)
        assert done.returncode == 0, done.stderr
        self.objects: list[dict[str, Any]] = list(filter(None, yaml.load_all(done.stdout, yaml.CSafeLoader)))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        (found,) = [
            each
            for each in self.objects
            if each["kind"] == kind and each["metadata"]["name"] == f"rel-nebulnetes-{name}"
        ]
        return found

    def has(self, kind: str, name: str = "") -> bool:
        """Whether there is an object of a kind, or the one of a name."""
        return any(
            each["kind"] == kind and name in {"", each["metadata"]["name"].removeprefix("rel-nebulnetes-")}
            for each in self.objects
        )

    def pod(self, kind: str, name: str) -> dict[str, Any]:
        spec: dict[str, Any] = self.get(kind, name)["spec"]["template"]["spec"]
        return spec

    def container(self, kind: str, name: str) -> dict[str, Any]:
        (only,) = self.pod(kind, name)["containers"]
        found: dict[str, Any] = only
        return found


def _merged(left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    both = {key: _merged(left[key], right[key]) for key in left.keys() & right.keys() if isinstance(left[key], dict)}
    return left | right | both


def rules(role: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def grant(group: str, resources: str, verbs: str) -> set[tuple[str, str, str]]:
    return {(group, resource, verb) for resource in resources.split() for verb in verbs.split()}


QUOTAS = "elasticquotas compositeelasticquotas"


def test_priority_classes_for_whom_nobody_is_evicted_by_priority_alone(helm: Path) -> None:
    assert not Rendered(helm).has("PriorityClass")
    chart = Rendered(helm, quotas={"priorityClasses": {"batch": 100, "serving": 1_000_000}})
    classes = [each for each in chart.objects if each["kind"] == "PriorityClass"]
    assert [(each["metadata"]["name"], each["value"], each["preemptionPolicy"]) for each in classes] == [
        ("batch", 100, "Never"),
        ("serving", 1_000_000, "Never"),
    ]


def test_the_brain_has_these_rights_and_no_other(helm: Path) -> None:
    chart = Rendered(helm)
    assert rules(chart.get("ClusterRole", "brain")) == (
        grant("", "namespaces", "list watch patch")
        | grant("batch", "jobs", "list watch")
        | grant("", "nodes", "get list watch patch")
        | grant("", "pods", "list watch patch")
        | grant("", "nodes/status pods/status", "patch")
        | grant("", "pods/eviction", "create")
        | grant("policy", "poddisruptionbudgets", "list watch")
        | grant("", "events", "create")
        | grant("authentication.k8s.io", "tokenreviews", "create")
        | grant("n8s.nebuly.ai", QUOTAS, "list watch")
        | grant("n8s.nebuly.ai", "elasticquotas/status compositeelasticquotas/status", "patch")
    )
    assert rules(chart.get("Role", "brain")) == grant("coordination.k8s.io", "leases", "get create update")
    assert chart.get("Role", "brain")["metadata"]["namespace"] == "ns"
    assert chart.get("Role", "brain")["rules"][1]["resourceNames"] == [lease.NAME]


def test_the_webhook_has_these_rights_and_no_other(helm: Path) -> None:
    assert rules(Rendered(helm).get("ClusterRole", "webhook")) == (
        grant("n8s.nebuly.ai", QUOTAS, "list") | grant("authorization.k8s.io", "subjectaccessreviews", "create")
    )


def test_agents_and_viewers_have_no_right_and_no_token_for_the_api_server(helm: Path) -> None:
    chart = Rendered(helm)
    bound = {
        subject["name"]
        for each in chart.objects
        if each["kind"].endswith("RoleBinding")
        for subject in each["subjects"]
    }
    assert bound == {"rel-nebulnetes-brain", "rel-nebulnetes-webhook"}
    assert chart.pod("DaemonSet", "agent")["automountServiceAccountToken"] is False
    (viewer,) = [each for each in chart.objects if each["metadata"]["name"] == names.VIEWER_ACCOUNT]
    assert (viewer["kind"], viewer["automountServiceAccountToken"]) == ("ServiceAccount", False)


def test_who_may_ask_the_brain_may_have_tokens_of_the_viewer_and_see_the_authority(helm: Path) -> None:
    token, authority = Rendered(helm).get("Role", "inventory-view")["rules"]
    assert (token["resources"], token["verbs"]) == (["serviceaccounts/token"], ["create"])
    assert token["resourceNames"] == [names.VIEWER_ACCOUNT]
    assert (authority["resources"], authority["verbs"]) == (["configmaps"], ["get"])
    assert authority["resourceNames"] == [names.BRAIN_CA]


def test_people_may_see_quotas_with_the_view_role_and_write_them_with_none(helm: Path) -> None:
    chart = Rendered(helm)
    view, edit = (chart.get("ClusterRole", f"quota-{name}") for name in ("view", "edit"))
    aggregated = {"rbac.authorization.k8s.io/aggregate-to-view": "true"}
    assert aggregated.items() <= view["metadata"]["labels"].items()
    assert not any("aggregate" in label for label in edit["metadata"]["labels"])
    assert rules(view) == grant("n8s.nebuly.ai", QUOTAS, "get list watch")
    off = Rendered(helm, rbac={"aggregateView": False}).get("ClusterRole", "quota-view")
    assert not any("aggregate" in label for label in off["metadata"]["labels"])


ENVIRONMENT = {"POD_IP": "10.0.0.7", "POD_NAMESPACE": "ns", "POD_UID": "3f2a", "POD_NAME": "brain-1", "NODE_NAME": "n1"}


def arguments(container: dict[str, Any]) -> list[str]:
    """A container's arguments as the kubelet expands them; only with variables that the container has."""
    known = {each["name"] for each in container.get("env", [])}
    expanded = []
    for argument in container["args"]:
        for name in known & ENVIRONMENT.keys():
            argument = argument.replace(f"$({name})", ENVIRONMENT[name])  # noqa: PLW2901 - one variable at a time
        assert "$(" not in argument
        expanded.append(argument)
    assert "command" not in container
    return expanded


def test_the_brain_takes_its_command_line(helm: Path) -> None:
    chart = Rendered(helm, brain={"settleSeconds": 0.5, "gpuMemoryGB": 80, "grpc": {"listen": "127.0.0.1:7777"}})
    found = brain_config.parse(arguments(chart.container("Deployment", "brain")))
    assert (str(found.grpc_listen), str(found.http_listen)) == ("127.0.0.1:7777", "10.0.0.7:8080")
    assert (found.lease_namespace, found.identity, found.pod_name) == ("ns", "3f2a", "brain-1")
    assert (found.gpu_memory_gb, found.settle_seconds) == (80, 0.5)
    assert found.agent_account == chart.pod("DaemonSet", "agent")["serviceAccountName"]
    (mount,) = chart.container("Deployment", "brain")["volumeMounts"]
    assert mount["mountPath"] == str(found.tls_dir)
    assert chart.get("Service", "brain")["spec"]["ports"][0]["port"] == 7777


def test_the_agent_takes_its_command_line(helm: Path) -> None:
    chart = Rendered(helm, agent={"pollSeconds": 2})
    found = agent_config.parse(arguments(chart.container("DaemonSet", "agent")), {})
    assert (found.node_name, found.brain_address) == ("n1", "rel-nebulnetes-brain.ns.svc:9090")
    sources = found.sources
    assert (sources.gpu_driver, found.poll_seconds) == ("simulated", 2)
    assert (found.http_host, found.http_port) == ("10.0.0.7", 8081)
    mounted = {mount["mountPath"] for mount in chart.container("DaemonSet", "agent")["volumeMounts"]}
    needed = (sources.pod_resources_socket.parent, found.device_plugin_dir, sources.simulation_dir)
    assert mounted == {str(path) for path in (*needed, found.brain_ca.parent)}
    assert found.token_file.parent == found.brain_ca.parent
    token, authority = brain_sources(chart)
    assert token == {"audience": names.BRAIN_AUDIENCE, "expirationSeconds": 3600, "path": found.token_file.name}
    assert authority == {"name": names.BRAIN_CA, "items": [{"key": names.CA_KEY, "path": found.brain_ca.name}]}
    assert "runtimeClassName" not in chart.pod("DaemonSet", "agent")
    elsewhere = Rendered(helm, agent={"brainAddress": "brain:1"}).container("DaemonSet", "agent")
    assert "--brain-address=brain:1" in elsewhere["args"]


def test_the_agent_of_real_gpus_gets_them_from_nvidias_runtime(helm: Path) -> None:
    chart = Rendered(helm, agent={"gpuDriver": "nvml"})
    container = chart.container("DaemonSet", "agent")
    assert agent_config.parse(arguments(container), {}).sources.gpu_driver == "nvml"
    environment = {each["name"]: each.get("value") for each in container["env"]}
    assert environment["NVIDIA_VISIBLE_DEVICES"] == environment["NVIDIA_MIG_CONFIG_DEVICES"] == "all"
    assert environment["NVIDIA_MIG_MONITOR_DEVICES"] == "all"
    assert chart.pod("DaemonSet", "agent")["runtimeClassName"] == "nvidia"
    assert {mount["name"] for mount in container["volumeMounts"]} == {"brain", "pod-resources", "device-plugins"}
    default = Rendered(helm, agent={"gpuDriver": "nvml", "runtimeClassName": ""}).pod("DaemonSet", "agent")
    assert "runtimeClassName" not in default
    assert "--gpu-driver=nvml" in template(helm, {}).stdout


def test_the_webhook_takes_its_command_line(helm: Path, tmp_path: Path) -> None:
    container = Rendered(helm, webhook={"listen": "127.0.0.1:7443"}).container("Deployment", "webhook")
    (mount,) = container["volumeMounts"]
    given = [each.replace(mount["mountPath"], str(tmp_path)) for each in arguments(container)]
    found = webhook_config.parse(given)
    assert (found.host, found.port, found.tls_dir) == ("127.0.0.1", 7443, tmp_path)
    assert container["readinessProbe"]["httpGet"]["host"] == "127.0.0.1"
    assert "host" not in Rendered(helm).container("Deployment", "webhook")["readinessProbe"]["httpGet"]


@pytest.mark.parametrize(("timeout", "answer"), [(5, 4), (10, 9), (1, 0.5)])
def test_the_webhook_answers_before_the_api_server_gives_up(
    helm: Path, tmp_path: Path, timeout: int, answer: float
) -> None:
    chart = Rendered(helm, webhook={"timeoutSeconds": timeout})
    given = arguments(chart.container("Deployment", "webhook"))
    found = webhook_config.parse([*given, f"--tls-dir={tmp_path}"])
    assert found.answer_seconds == answer
    assert {each["timeoutSeconds"] for each in webhooks(chart)} == {timeout}


def test_the_api_servers_address_can_be_given(helm: Path) -> None:
    chart = Rendered(helm, kubernetesApi={"host": "127.0.0.1", "port": 6443})
    for name in ("brain", "webhook"):
        env = {each["name"]: each.get("value") for each in chart.container("Deployment", name)["env"]}
        assert (env["KUBERNETES_SERVICE_HOST"], env["KUBERNETES_SERVICE_PORT"]) == ("127.0.0.1", "6443")
    assert "env" not in Rendered(helm).container("Deployment", "webhook")


def test_images(helm: Path) -> None:
    assert Rendered(helm).container("Deployment", "brain")["image"] == "nebulnetes/brain:0.1.0"
    chart = Rendered(helm, image={"registry": "example.com/team/", "tag": "v2", "pullPolicy": "Always"})
    assert chart.container("DaemonSet", "agent")["image"] == "example.com/team/nebulnetes/agent:v2"
    assert chart.container("Deployment", "webhook")["imagePullPolicy"] == "Always"


@pytest.mark.parametrize("name", ["brain", "webhook"])
def test_deployments_run_with_next_to_nothing(helm: Path, name: str) -> None:
    chart = Rendered(helm)
    assert chart.pod("Deployment", name)["securityContext"]["runAsNonRoot"] is True
    assert chart.container("Deployment", name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_agent_runs_where_the_label_is_and_tolerates_the_taint(helm: Path) -> None:
    pod = Rendered(helm).pod("DaemonSet", "agent")
    assert pod["nodeSelector"] == {"n8s.nebuly.ai/auto-mig-enabled": "true"}
    assert {"operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    assert pod["hostPID"] is True


def test_an_agent_that_may_not_see_its_nodes_processes_leaves_the_device_plugin_to_the_brain(helm: Path) -> None:
    chart = Rendered(helm, agent={"hostPID": False}, brain={"devicePluginContainers": ["own"]})
    assert "hostPID" not in chart.pod("DaemonSet", "agent")
    assert not agent_config.parse(arguments(chart.container("DaemonSet", "agent")), {}).signals
    assert agent_config.parse(arguments(Rendered(helm).container("DaemonSet", "agent")), {}).signals
    assert brain_config.parse(arguments(chart.container("Deployment", "brain"))).plugin_containers == ("own",)
    default = brain_config.parse(arguments(Rendered(helm).container("Deployment", "brain")))
    assert default.plugin_containers == brain_config.parse([]).plugin_containers


def test_a_brain_goes_when_another_is_ready_to_take_over(helm: Path) -> None:
    spec = Rendered(helm).get("Deployment", "brain")["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_the_service_leads_to_the_brain_that_leads(helm: Path) -> None:
    chart = Rendered(helm)
    selector = chart.get("Service", "brain")["spec"]["selector"]
    template = chart.get("Deployment", "brain")["spec"]["template"]["metadata"]["labels"]
    assert selector.items() - template.items() == {(names.LEADER_LABEL, "true")}


def test_only_what_runs_more_than_once_has_a_disruption_budget(helm: Path) -> None:
    assert not Rendered(helm).has("PodDisruptionBudget")
    chart = Rendered(helm, brain={"replicas": 2}, webhook={"replicas": 2})
    for name in ("brain", "webhook"):
        assert chart.get("PodDisruptionBudget", name)["spec"]["maxUnavailable"] == 1


def test_what_can_be_left_out(helm: Path) -> None:
    chart = Rendered(helm, webhook={"enabled": False}, crds={"install": False})
    assert not chart.has("ValidatingWebhookConfiguration")
    assert not chart.has("MutatingWebhookConfiguration")
    assert not chart.has("Secret", "webhook-tls")
    assert not chart.has("CustomResourceDefinition")
    assert Rendered(helm).has("CustomResourceDefinition")


POLICIES = "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy"


@pytest.mark.parametrize(
    ("gate", "served", "policy"),
    [("auto", True, True), ("auto", False, False), ("policy", False, True), ("webhook", True, False)],
)
def test_a_policy_puts_the_gate_on_where_the_cluster_has_it_unless_told_otherwise(
    helm: Path, gate: str, served: bool, policy: bool
) -> None:
    chart = Rendered(helm, [POLICIES] if served else [], quotas={"gate": gate})
    assert chart.has("MutatingAdmissionPolicy") == chart.has("MutatingAdmissionPolicyBinding") == policy
    assert chart.has("MutatingWebhookConfiguration") != policy


def test_policy_and_webhook_put_the_gate_on_the_same_pods(helm: Path) -> None:
    spec = Rendered(helm, quotas={"gate": "policy"}).get("MutatingAdmissionPolicy", "quota-gate")["spec"]
    chart = Rendered(helm, quotas={"gate": "webhook"}, webhook={"url": "https://127.0.0.9:7443"})
    (webhook,) = chart.get("MutatingWebhookConfiguration", "webhook")["webhooks"]
    matched = spec["matchConstraints"]
    assert webhook["namespaceSelector"] == matched["namespaceSelector"]
    assert webhook["namespaceSelector"]["matchLabels"] == {names.QUOTA_LABEL: "true"}
    (excluded,) = webhook["namespaceSelector"]["matchExpressions"]
    assert (excluded["operator"], excluded["values"]) == ("NotIn", ["kube-system", "ns"])
    assert webhook["matchConditions"] == spec["matchConditions"]
    assert [{"scope": "Namespaced", **rule} for rule in matched["resourceRules"]] == webhook["rules"]
    assert webhook["rules"][0]["operations"] == ["CREATE"]
    assert names.QUOTA_GATE in spec["mutations"][0]["applyConfiguration"]["expression"]
    assert webhook["clientConfig"]["url"] == "https://127.0.0.9:7443/gate/pods"
    assert webhook["clientConfig"]["caBundle"] == webhooks(chart)[0]["clientConfig"]["caBundle"]


def test_pods_come_in_without_the_webhook_unless_told_otherwise(helm: Path) -> None:
    for values, policy in (({}, "Ignore"), ({"gateFailurePolicy": "Fail"}, "Fail")):
        chart = Rendered(helm, quotas={"gate": "webhook"} | values, webhook={"timeoutSeconds": 10})
        (webhook,) = chart.get("MutatingWebhookConfiguration", "webhook")["webhooks"]
        assert (webhook["failurePolicy"], webhook["timeoutSeconds"]) == (policy, 3)


def test_only_the_brain_of_this_release_writes_what_decisions_rest_on(helm: Path) -> None:
    for given in ({}, {"quotas": {"gate": "webhook"}}, {"webhook": {"enabled": False}}):
        chart = Rendered(helm, **given)
        account = chart.get("ServiceAccount", "brain")["metadata"]
        user = f"system:serviceaccount:{account['namespace']}:{account['name']}"
        assert chart.pod("Deployment", "brain")["serviceAccountName"] == account["name"]
        for name in ("quota-pods", "quota-namespaces"):
            policy = chart.get("ValidatingAdmissionPolicy", name)
            binding = chart.get("ValidatingAdmissionPolicyBinding", name)["spec"]
            assert policy["spec"]["failurePolicy"] == "Fail"
            assert binding == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]}
            assert f"request.userInfo.username == '{user}'" in str(policy) or f"!= '{user}'" in str(policy)
        expressions = str(chart.get("ValidatingAdmissionPolicy", "quota-pods")["spec"]["validations"])
        for name in (names.QUOTA_GATE, names.CAPACITY_LABEL, names.RESERVATION_ANNOTATION, names.PREEMPTIBLE_LABEL):
            assert f"'{name}'" in expressions
        assert f"'{names.QUOTA_LABEL}'" in str(chart.get("ValidatingAdmissionPolicy", "quota-namespaces")["spec"])


def webhooks(chart: Rendered) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = chart.get("ValidatingWebhookConfiguration", "webhook")["webhooks"]
    return found


def test_helm_makes_a_certificate_for_the_service_and_the_url(helm: Path) -> None:
    chart = Rendered(helm, webhook={"url": "https://127.0.0.9:7443"})
    data = {name: base64.b64decode(text) for name, text in chart.get("Secret", "webhook-tls")["data"].items()}
    certificate, authority = (x509.load_pem_x509_certificate(data[name]) for name in ("tls.crt", "ca.crt"))
    certificate.verify_directly_issued_by(authority)
    valid_for = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "rel-nebulnetes-webhook.ns.svc" in valid_for.get_values_for_type(x509.DNSName)
    assert [str(each) for each in valid_for.get_values_for_type(x509.IPAddress)] == ["127.0.0.9"]
    for each, plural in zip(webhooks(chart), QUOTAS.split(), strict=True):
        assert each["clientConfig"]["url"] == f"https://127.0.0.9:7443/validate/{plural}"
        assert base64.b64decode(each["clientConfig"]["caBundle"]) == data["ca.crt"]


def pod_annotations(chart: Rendered) -> dict[str, str]:
    metadata = chart.get("Deployment", "webhook")["spec"]["template"]["metadata"]
    found: dict[str, str] = metadata.get("annotations", {})
    return found


def test_pods_are_replaced_with_the_certificate_that_helm_makes(helm: Path) -> None:
    here, same, there = (
        pod_annotations(Rendered(helm, webhook={"url": url, "podAnnotations": {"mine": "kept"}}))
        for url in ("https://127.0.0.9:1", "https://127.0.0.9:2", "https://127.0.0.8:1")
    )
    assert here == same != there
    assert here["mine"] == "kept"
    mine = {"mode": "existingSecret", "existingSecret": "mine"}
    assert pod_annotations(Rendered(helm, webhook={"certificates": mine})) == {}


def test_the_webhook_is_found_by_its_service(helm: Path) -> None:
    chart = Rendered(helm, webhook={"failurePolicy": "Ignore", "timeoutSeconds": 3})
    first, _ = webhooks(chart)
    service = chart.get("Service", "webhook")
    assert first["clientConfig"]["service"] == {
        "name": service["metadata"]["name"],
        "namespace": "ns",
        "path": "/validate/elasticquotas",
        "port": service["spec"]["ports"][0]["port"],
    }
    assert (first["failurePolicy"], first["timeoutSeconds"]) == ("Ignore", 3)


def test_cert_manager_can_issue_the_certificate(helm: Path) -> None:
    own = Rendered(helm, webhook={"certificates": {"mode": "certManager"}})
    assert own.get("Certificate", "webhook")["spec"]["issuerRef"]["name"] == "rel-nebulnetes-webhook"
    assert own.get("Issuer", "webhook")["spec"] == {"selfSigned": {}}
    assert not own.has("Secret", "webhook-tls")
    for kind in ("ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"):
        annotations = own.get(kind, "webhook")["metadata"]["annotations"]
        assert annotations == {"cert-manager.io/inject-ca-from": "ns/rel-nebulnetes-webhook"}
    issuer = {"name": "corporate", "kind": "ClusterIssuer"}
    other = Rendered(helm, webhook={"certificates": {"mode": "certManager", "issuerRef": issuer}})
    assert other.get("Certificate", "webhook")["spec"]["issuerRef"] == {"group": "cert-manager.io", **issuer}
    assert not other.has("Issuer")


def test_an_existing_secret_can_be_used(helm: Path) -> None:
    given = {"mode": "existingSecret", "existingSecret": "mine", "caBundle": "PEM"}
    chart = Rendered(helm, webhook={"certificates": given})
    assert chart.pod("Deployment", "webhook")["volumes"][0]["secret"]["secretName"] == "mine"
    assert base64.b64decode(webhooks(chart)[0]["clientConfig"]["caBundle"]) == b"PEM"
    assert not chart.has("Secret", "webhook-tls")


def brain_sources(chart: Rendered) -> list[dict[str, Any]]:
    """What agents have to speak to the brain with: a token, and whom to trust."""
    (volume,) = [each for each in chart.pod("DaemonSet", "agent")["volumes"] if each["name"] == "brain"]
    return [content for source in volume["projected"]["sources"] for content in source.values()]


def config_map(chart: Rendered) -> str:
    """Whom clients are to trust."""
    (found,) = [each for each in chart.objects if each["metadata"]["name"] == names.BRAIN_CA]
    text: str = found["data"][names.CA_KEY]
    return text


def test_helm_makes_the_brain_s_certificate_for_those_who_reach_it(helm: Path) -> None:
    chart = Rendered(helm, agent={"brainAddress": "[::7]:1"})
    data = {name: base64.b64decode(text) for name, text in chart.get("Secret", "brain-tls")["data"].items()}
    certificate, authority = (x509.load_pem_x509_certificate(data[name]) for name in ("tls.crt", "ca.crt"))
    certificate.verify_directly_issued_by(authority)
    valid_for = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"rel-nebulnetes-brain.ns.svc", "localhost"} <= set(valid_for.get_values_for_type(x509.DNSName))
    assert {str(each) for each in valid_for.get_values_for_type(x509.IPAddress)} == {"127.0.0.1", "::7"}
    assert config_map(chart).encode() == data["ca.crt"]
    assert b"PRIVATE" not in data["ca.crt"]
    assert {item["key"] for item in chart.pod("Deployment", "brain")["volumes"][0]["secret"]["items"]} == {
        "tls.crt",
        "tls.key",
    }


@pytest.mark.parametrize(
    "given", [{"mode": "certManager"}, {"mode": "existingSecret", "existingSecret": "rel-nebulnetes-brain-tls"}]
)
def test_of_a_certificate_that_others_issue_agents_trust_what_is_beside_it(helm: Path, given: dict[str, Any]) -> None:
    chart = Rendered(helm, brain={"certificates": given})
    _, authority = brain_sources(chart)
    assert authority == {"name": "rel-nebulnetes-brain-tls", "items": [{"key": "ca.crt", "path": "ca.crt"}]}
    assert not chart.has("ConfigMap")
    assert not chart.has("Secret", "brain-tls")
    assert chart.has("Certificate", "brain") == (given["mode"] == "certManager")


def test_the_authority_of_an_existing_secret_can_be_given(helm: Path) -> None:
    given = {"mode": "existingSecret", "existingSecret": "mine", "caBundle": "PEM"}
    chart = Rendered(helm, brain={"certificates": given})
    assert config_map(chart) == "PEM\n"
    assert brain_sources(chart)[1]["name"] == names.BRAIN_CA
    assert chart.pod("Deployment", "brain")["volumes"][0]["secret"]["secretName"] == "mine"


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"agent": {"gpuDriver": "rocm"}}, "/agent/gpuDriver"),
        (SIMULATED | {"brian": {}}, "additional properties 'brian' not allowed"),
        (SIMULATED | {"brain": {"replica": 2}}, "additional properties 'replica' not allowed"),
        (SIMULATED | {"brain": {"logLevel": "loud"}}, "/brain/logLevel"),
        (SIMULATED | {"brain": {"grpc": {"listen": "9090"}}}, 'brain.grpc.listen is "9090": it must be HOST:PORT'),
        (SIMULATED | {"webhook": {"listen": "0.0.0.0:65536"}}, "webhook.listen is"),
        ({"agent": {"gpuDriver": "simulated", "brainAddress": "brain"}}, "agent.brainAddress is"),
        ({"agent": {"gpuDriver": "simulated", "simulationDir": "sim"}}, "agent.simulationDir is"),
        (SIMULATED | {"brain": {"http": {"port": 65536}}}, "/brain/http/port"),
        (SIMULATED | {"kubernetesApi": {"host": "10.0.0.1"}}, "give both, or neither"),
        (SIMULATED | {"kubernetesApi": {"port": 6443}}, "give both, or neither"),
        (SIMULATED | {"kubernetesApi": {"host": "h", "port": 65536}}, "kubernetesApi.port is 65536"),
        (SIMULATED | {"kubernetesApi": {"host": "h", "port": "http"}}, "kubernetesApi.port is http"),
        (SIMULATED | {"quotas": {"gate": "none"}}, "/quotas/gate"),
        (SIMULATED | {"quotas": {"gateFailurePolicy": "Drop"}}, "/quotas/gateFailurePolicy"),
        (SIMULATED | {"quotas": {"priorityClasses": {"batch": 2_000_000_000}}}, "/quotas/priorityClasses/batch"),
        (SIMULATED | {"quotas": {"gate": "webhook"}, "webhook": {"enabled": False}}, "but webhook.enabled is false"),
        (SIMULATED | {"webhook": {"timeoutSeconds": 11}}, "/webhook/timeoutSeconds"),
        (SIMULATED | {"webhook": {"url": "http://plain"}}, 'webhook.url is "http://plain"'),
        (SIMULATED | {"webhook": {"certificates": {"existingSecret": "s"}}}, "but the mode is selfSigned"),
        (SIMULATED | {"webhook": {"certificates": {"mode": "existingSecret"}}}, "give the name of the Secret"),
        (SIMULATED | {"brain": {"certificates": {"existingSecret": "s"}}}, "brain.certificates.existingSecret is"),
        (SIMULATED | {"brain": {"certificates": {"mode": "none"}}}, "/brain/certificates/mode"),
    ],
)
def test_values_that_are_refused(helm: Path, values: dict[str, Any], complaint: str) -> None:
    done = template(helm, values)
    assert done.returncode != 0
    assert complaint in done.stderr


def test_every_value_is_commented() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    silent = [
        line
        for before, line, after in zip(lines, lines[1:], [*lines[2:], ""], strict=False)
        if re.match(r" *(?!requests|limits)[a-zA-Z]+:", line)
        and not before.lstrip().startswith("#")
        and not _opens(line, after)
    ]
    assert silent == []


def _opens(line: str, after: str) -> bool:
    """Whether a line only opens a group whose values have comments of their own."""
    return line.endswith(":") and after.lstrip().startswith("#")


def test_every_value_is_known_to_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert _unknown(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "") == []


def _unknown(values: dict[str, Any], schema: dict[str, Any], path: str) -> list[str]:
    found = []
    for key, value in values.items():
        known = schema.get("properties", {}).get(key)
        if known is None:
            found.append(f"{path}/{key}")
        elif isinstance(value, dict) and "properties" in known:
            found += _unknown(value, known, f"{path}/{key}")
    return found
