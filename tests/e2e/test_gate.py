"""The gate on pods of namespaces with a quota, by the policy and by the webhook, and who may write what it rests on.

Pods that shall wait ask for more than their quota's max, so that nobody lets them in.
"""

from __future__ import annotations

import base64
import json
import ssl
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.local.errors import CommandError
from n8s import names
from tests.e2e.lab import NEBULNETES, Lab, fresh_namespace, pod, quota

pytestmark = pytest.mark.e2e

GATE = {"name": names.QUOTA_GATE}
BRAIN = f"system:serviceaccount:{NEBULNETES}:nebulnetes-brain"
MOST = {"cpu": "100m"}
"""What the quota allows: so little that every node has room for more, whatever else runs there."""
TOO_MUCH = {"cpu": "200m"}


@pytest.fixture
def governed(lab: Lab, namespace: str) -> str:
    """A namespace with a quota, and ann, who may edit it as the built-in role has it."""
    lab.cluster.kubectl("apply", "-n", namespace, "-f", "-", stdin=quota("team", MOST, MOST))
    lab.cluster.kubectl("create", "rolebinding", "ann", "-n", namespace, "--clusterrole=edit", "--user=ann")
    lab.until("the brain labels the namespace", lambda: label(lab, namespace) == "true")
    lab.until("its pods get the gate", lambda: dry_run(lab, namespace) == [GATE])
    return namespace


@pytest.fixture
def by_webhook(lab: Lab, governed: str) -> Iterator[str]:
    """The same, with the webhook in the policy's place."""
    lab.release.install({"quotas": {"gate": "webhook"}})
    try:
        assert lab.cluster.api.items("mutatingadmissionpolicies") == []

        def asked() -> bool:
            dry_run(lab, governed)
            return gated_by_webhook(lab) > 0

        lab.until("the API server asks the webhook", asked)
        yield governed
    finally:
        lab.release.install()
    lab.until("the policy is back", lambda: lab.cluster.api.items("mutatingadmissionpolicies"))


def label(lab: Lab, namespace: str) -> str | None:
    value = lab.cluster.api.get("namespaces", namespace)["metadata"]["labels"].get(names.QUOTA_LABEL)
    return None if value is None else str(value)


def dry_run(lab: Lab, namespace: str) -> list[dict[str, str]]:
    """The gates that a pod would be created with."""
    made = lab.dry_run(namespace, pod("probe", request=TOO_MUCH))
    found: list[dict[str, str]] = made["spec"].get("schedulingGates", [])
    return found


def gates(lab: Lab, namespace: str, app: str = "") -> list[list[dict[str, str]]]:
    """The gates of each pod, or of those with an ``app`` label."""
    pods = lab.cluster.api.items("pods", namespace=namespace, labels=f"app={app}" if app else "")
    return [each["spec"].get("schedulingGates", []) for each in pods]


def capacity(lab: Lab, namespace: str, name: str) -> str | None:
    value = lab.pod(namespace, name)["metadata"].get("labels", {}).get(names.CAPACITY_LABEL)
    return None if value is None else str(value)


def reserved(lab: Lab, namespace: str) -> str:
    """The cpu that decisions count."""
    return str(lab.cluster.api.get("elasticquotas", "team", namespace=namespace)["status"]["reserved"]["cpu"])


def webhooks(lab: Lab) -> list[str]:
    """Names of the webhook's pods."""
    pods = lab.cluster.api.items("pods", namespace=NEBULNETES, labels="app.kubernetes.io/component=webhook")
    return [each["metadata"]["name"] for each in pods]


def gated_by_webhook(lab: Lab) -> float:
    """How many pods the webhook has put the gate on, by its own account."""
    secret = lab.cluster.api.get("secrets", "nebulnetes-webhook-tls", namespace=NEBULNETES)
    context = ssl.create_default_context(cadata=base64.b64decode(secret["data"]["ca.crt"]).decode())
    with urllib.request.urlopen(f"https://{lab.release.webhook_address}/metrics", context=context, timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if 'kind="Pod",outcome="gated"' in line and "_total" in line)


def workload(kind: str, name: str, template: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """A workload of group apps whose pods carry its name as their label ``app``."""
    labels = {"matchLabels": {"app": name}}
    template = {"metadata": {"labels": {"app": name}}, "spec": template["spec"]}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {"selector": labels, "template": template, **spec},
    }


def refusal(lab: Lab, *args: str, stdin: str = "") -> str:
    """What kubectl says when it is refused."""
    with pytest.raises(CommandError) as caught:
        lab.cluster.kubectl(*args, stdin=stdin)
    return str(caught.value)


def who_gets_the_gate(lab: Lab, namespace: str) -> None:
    deployment = workload("Deployment", "web", pod("web", request=TOO_MUCH), replicas=2)
    bound = pod("bound", nodeName="a30")
    lab.create(namespace, pod("bare", request=TOO_MUCH), bound, deployment, workload("DaemonSet", "each", pod("each")))
    assert lab.pod(namespace, "bare")["spec"]["schedulingGates"] == [GATE]
    lab.until("the Deployment's pods wait", lambda: gates(lab, namespace, "web") == [[GATE], [GATE]])
    lab.running(namespace, "bound")
    assert "schedulingGates" not in lab.pod(namespace, "bound")["spec"]
    lab.cluster.kubectl("rollout", "status", "daemonset/each", "-n", namespace, "--timeout=40s")
    assert gates(lab, namespace, "each") == [[]] * len(lab.cluster.nodes)


def test_the_api_server_itself_puts_the_gate_on(lab: Lab, governed: str) -> None:
    before = gated_by_webhook(lab)
    who_gets_the_gate(lab, governed)
    assert gated_by_webhook(lab) == before
    lab.until("the brain labels what runs", lambda: capacity(lab, governed, "bound") == names.IN_QUOTA)


def test_gated_pods_are_orphaned_and_deleted_as_any(lab: Lab, governed: str) -> None:
    lab.create(governed, workload("ReplicaSet", "set", pod("set", request=TOO_MUCH), replicas=1))
    lab.until("its pod waits", lambda: gates(lab, governed, "set") == [[GATE]])
    lab.cluster.kubectl("delete", "replicaset", "set", "-n", governed, "--cascade=orphan")
    (left,) = lab.cluster.api.items("pods", namespace=governed, labels="app=set")
    assert "ownerReferences" not in left["metadata"]
    lab.create(governed, workload("ReplicaSet", "set", pod("set", request=TOO_MUCH), replicas=1))
    lab.until(
        "it is adopted",
        lambda: lab.pod(governed, left["metadata"]["name"])["metadata"].get("ownerReferences"),
    )
    lab.cluster.kubectl("delete", "replicaset", "set", "-n", governed, "--cascade=foreground")
    lab.until("it is gone", lambda: gates(lab, governed) == [])


def test_the_webhook_puts_the_gate_on_where_there_is_no_policy(lab: Lab, by_webhook: str) -> None:
    who_gets_the_gate(lab, by_webhook)
    assert gated_by_webhook(lab) >= 3
    lab.cluster.kubectl("scale", "deployment/nebulnetes-webhook", "-n", NEBULNETES, "--replicas=0")
    lab.until("the webhook is down", lambda: dry_run(lab, by_webhook) == [])
    lab.create(by_webhook, pod("late", request=TOO_MUCH))
    assert "schedulingGates" not in lab.pod(by_webhook, "late")["spec"], "it comes in, as the policy says Ignore"
    lab.until("it is labelled", lambda: capacity(lab, by_webhook, "late") == names.OVER_QUOTA)
    lab.until("it is counted", lambda: reserved(lab, by_webhook) == TOO_MUCH["cpu"])


def test_the_policy_needs_no_webhook(lab: Lab, governed: str) -> None:
    lab.cluster.kubectl("scale", "deployment/nebulnetes-webhook", "-n", NEBULNETES, "--replicas=0")
    try:
        lab.until("the webhook is down", lambda: webhooks(lab) == [])
        lab.create(governed, pod("waits", request=TOO_MUCH), pod("fits", request=MOST))
        lab.running(governed, "fits")
        assert gates(lab, governed) == [[], [GATE]]
    finally:
        lab.cluster.kubectl("scale", "deployment/nebulnetes-webhook", "-n", NEBULNETES, "--replicas=1")
        lab.cluster.kubectl("rollout", "status", "deployment/nebulnetes-webhook", "-n", NEBULNETES, "--timeout=40s")


def test_people_are_refused_what_is_the_brains(lab: Lab, governed: str) -> None:
    held = pod("held", request=TOO_MUCH)
    held["metadata"]["labels"] = {names.PREEMPTIBLE_LABEL: "false"}
    lab.create(governed, held)

    def patch(change: Any, kind: str = "merge") -> list[str]:
        return ["patch", "pod/held", "-n", governed, "--as=ann", f"--type={kind}", f"--patch={json.dumps(change)}"]

    off = [{"op": "remove", "path": "/spec/schedulingGates"}]
    assert f"only {BRAIN} takes the scheduling gate {names.QUOTA_GATE} off" in refusal(lab, *patch(off, "json"))
    changes = {
        f"only {BRAIN} writes the label {names.CAPACITY_LABEL}": {"labels": {names.CAPACITY_LABEL: names.IN_QUOTA}},
        f"only {BRAIN} writes the annotation {names.RESERVATION_ANNOTATION}": {
            "annotations": {names.RESERVATION_ANNOTATION: "{}"}
        },
        f"the label {names.PREEMPTIBLE_LABEL} is fixed when a pod is created": {
            "labels": {names.PREEMPTIBLE_LABEL: None}
        },
    }
    for message, metadata in changes.items():
        assert message in refusal(lab, *patch({"metadata": metadata}))
    lab.cluster.kubectl(*patch({"metadata": {"labels": {"purpose": "test"}}}))

    brought = pod("brought")
    brought["metadata"]["labels"] = {names.CAPACITY_LABEL: names.IN_QUOTA}
    message = refusal(lab, "create", "-n", governed, "--as=ann", "-f", "-", stdin=json.dumps(brought))
    assert "leave it out of pods and pod templates" in message

    assert "forbidden" in refusal(lab, "label", "namespace", governed, f"{names.QUOTA_LABEL}-", "--as=ann")
    as_administrator = refusal(lab, "label", "namespace", governed, f"{names.QUOTA_LABEL}-")
    assert f"only {BRAIN} writes the label {names.QUOTA_LABEL} of namespaces" in as_administrator
    assert "delete the quota" in as_administrator


def test_the_label_goes_with_the_quota(lab: Lab, governed: str) -> None:
    lab.cluster.kubectl("delete", "eq", "team", "-n", governed)
    lab.until("the label is gone", lambda: label(lab, governed) is None)
    lab.until("pods come in at once", lambda: dry_run(lab, governed) == [])


def test_quotas_do_not_touch_the_system_nor_nebulnetes_itself(lab: Lab, namespace: str) -> None:
    untouched = ["kube-system", NEBULNETES]
    lab.cluster.kubectl("apply", "-n", namespace, "-f", "-", stdin=quota("all", {"cpu": "1"}, namespaces=untouched))
    try:
        lab.cluster.kubectl("wait", "ceq/all", "-n", namespace, "--for=condition=Active", "--timeout=20s")
        for name in untouched:
            assert label(lab, name) is None
            assert dry_run(lab, name) == []
        status = lab.cluster.api.get("compositeelasticquotas", "all", namespace=namespace)["status"]
        assert status["used"] == {"cpu": "0"}
        assert not lab.cluster.api.items("pods", namespace=NEBULNETES, labels=names.CAPACITY_LABEL)
    finally:
        lab.cluster.kubectl("delete", "ceq", "all", "-n", namespace)


def test_who_writes_a_composite_may_write_quotas_in_what_it_lists(lab: Lab, governed: str) -> None:
    with fresh_namespace(lab.cluster, f"{governed}-b") as other:
        lab.cluster.kubectl(
            "create", "rolebinding", "lead", "-n", governed, "--clusterrole=nebulnetes-quota-edit", "--user=ann"
        )
        apply = ["apply", "-n", governed, "--as=ann", "-f", "-"]
        message = refusal(lab, *apply, stdin=quota("both", {"cpu": "1"}, namespaces=[governed, other]))
        assert f"ann may not create ElasticQuotas in {other};" in message
        lab.cluster.kubectl(*apply, stdin=quota("both", {"cpu": "1"}, namespaces=[governed]))
        message = refusal(lab, *apply, stdin=quota("both", {"cpu": "1"}, namespaces=[governed, other]))
        assert f"ann may not create ElasticQuotas in {other};" in message
        # Who may, adds it; then ann may leave it as it is, and delete it.
        both = quota("both", {"cpu": "1"}, namespaces=[governed, other])
        lab.cluster.kubectl("apply", "-n", governed, "-f", "-", stdin=both)
        message = refusal(lab, *apply, stdin=quota("both", {"cpu": "2"}, namespaces=[governed, other]))
        assert f"ann may not create ElasticQuotas in {other};" in message
        lab.cluster.kubectl(*apply, stdin=both)
        lab.until("both are labelled", lambda: label(lab, governed) == label(lab, other) == "true")
        lab.cluster.kubectl("delete", "ceq", "both", "-n", governed, "--as=ann")
