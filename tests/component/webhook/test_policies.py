"""The chart's policies on a real API server: which pods get the gate, and who may write what decisions rest on.

No controller runs here: pods are made as controllers make them, and the brain is played by impersonation.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from n8s import names
from tests.component.apiserver import ApiServer

BRAIN = "system:serviceaccount:n8s:rel-nebulnetes-brain"
ANN = "--as=ann"
GATE = {"name": names.QUOTA_GATE}
OTHER = {"name": "example.com/other"}


@pytest.fixture(scope="module", autouse=True)
def world(server: ApiServer) -> None:
    """Namespaces with the label (team) and without (free), and ann, who may do all to pods and namespaces."""
    for namespace in ("team", "free", "kube-system", "n8s"):
        if namespace in ("team", "free"):
            server.done("kubectl", "create", "namespace", namespace)
        server.done("kubectl", "create", "serviceaccount", "default", "-n", namespace)
    resources = "--resource=pods,pods/status,pods/ephemeralcontainers,pods/resize,namespaces,namespaces/status"
    server.done("kubectl", "create", "clusterrole", "ann", "--verb=*", resources)
    server.done("kubectl", "create", "clusterrolebinding", "ann", "--clusterrole=ann", "--user=ann")
    # kubectl looks before it writes, which the brain need not.
    server.done("kubectl", "create", "clusterrole", "looks", "--verb=get", "--resource=pods,pods/status,namespaces")
    server.done("kubectl", "create", "clusterrolebinding", "looks", "--clusterrole=looks", f"--user={BRAIN}")
    until(
        lambda: (
            "only " in server.run("kubectl", "label", "ns/team", f"{names.QUOTA_LABEL}=x", "--dry-run=server").stderr
        )
    )
    for namespace in ("team", "kube-system", "n8s"):
        server.done("kubectl", "label", f"ns/{namespace}", f"{names.QUOTA_LABEL}=true", f"--as={BRAIN}")
    until(lambda: gates(server, pod("probe")) == [GATE])


def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    """Policies and labels take effect a moment after they are written."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def pod(name: str, namespace: str = "team", *, metadata: Any = None, **spec: Any) -> dict[str, Any]:
    containers = [{"name": "main", "image": "example/work:1"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, **(metadata or {})},
        "spec": {"containers": containers, "automountServiceAccountToken": False, **spec},
    }


def gates(server: ApiServer, document: dict[str, Any]) -> list[dict[str, str]]:
    """The gates that a pod would be created with."""
    made = server.done("kubectl", "create", ANN, "--dry-run=server", "-o", "json", "-f", "-", document=document)
    found: list[dict[str, str]] = json.loads(made)["spec"].get("schedulingGates", [])
    return found


def owner(kind: str, api_version: str = "apps/v1", *, controller: bool = True) -> dict[str, Any]:
    found = {"apiVersion": api_version, "kind": kind, "name": "o", "uid": "u", "controller": controller}
    return {"ownerReferences": [found]}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (pod("p"), [GATE]),
        (pod("p", schedulingGates=[OTHER]), [OTHER, GATE]),
        (pod("p", schedulingGates=[OTHER, GATE]), [OTHER, GATE]),
        (pod("p", metadata=owner("ReplicaSet")), [GATE]),
        (pod("p", metadata=owner("DaemonSet", controller=False)), [GATE]),
        (pod("p", metadata=owner("DaemonSet", "example.com/v1")), [GATE]),
        (pod("p", metadata=owner("DaemonSet")), []),
        (pod("p", nodeName="n1"), []),
        (pod("p", metadata={"annotations": {"a": "b"}, "labels": {names.PREEMPTIBLE_LABEL: "false"}}), [GATE]),
        (pod("p", "free"), []),
        (pod("p", "kube-system"), []),
        (pod("p", "n8s"), []),
    ],
)
def test_the_gate_is_put_on_pods_that_quotas_decide_about(
    server: ApiServer, document: dict[str, Any], expected: list[dict[str, str]]
) -> None:
    assert gates(server, document) == expected


def test_mirror_pods_are_left_alone(server: ApiServer) -> None:
    """The API server takes them with a node only, so that is what keeps the gate off as well."""
    mirror = pod("m", metadata={"annotations": {"kubernetes.io/config.mirror": "x"}}, nodeName="n1")
    assert gates(server, mirror) == []


CAPACITY, RESERVATION, PREEMPTIBLE = names.CAPACITY_LABEL, names.RESERVATION_ANNOTATION, names.PREEMPTIBLE_LABEL


@pytest.mark.parametrize("namespace", ["team", "free"])
@pytest.mark.parametrize(
    ("metadata", "name"),
    [({"labels": {CAPACITY: "in-quota"}}, CAPACITY), ({"annotations": {RESERVATION: "{}"}}, RESERVATION)],
)
def test_nobody_brings_what_the_brain_writes(
    server: ApiServer, namespace: str, metadata: dict[str, Any], name: str
) -> None:
    message = server.refused("kubectl", "create", ANN, "-f", "-", document=pod("p", namespace, metadata=metadata))
    assert f"only {BRAIN} writes the" in message
    assert f" {name}, " in message
    assert "leave it out of pods and pod templates" in message
    server.done("kubectl", "create", ANN, "--dry-run=server", "-f", "-", document=pod("p", "n8s", metadata=metadata))


def patch(subject: str, name: str, change: dict[str, Any], *args: str) -> list[str]:
    """The arguments that have kubectl apply a merge patch to a pod of namespace team as somebody."""
    given = ["patch", f"pod/{name}", "-n", "team", f"--as={subject}", "--type=merge", f"--patch={json.dumps(change)}"]
    return [*given, *args]


def test_only_the_brain_changes_what_decisions_rest_on(server: ApiServer) -> None:
    document = pod("held", metadata={"labels": {PREEMPTIBLE: "false", "app": "x"}}, schedulingGates=[OTHER])
    server.done("kubectl", "create", ANN, "-f", "-", document=document)
    refusals: list[tuple[dict[str, Any], str]] = [
        ({"spec": {"schedulingGates": [OTHER]}}, "takes the scheduling gate n8s.nebuly.ai/quota off"),
        ({"spec": {"schedulingGates": None}}, 'the pod\'s events say what it waits for ("kubectl describe pod")'),
        ({"metadata": {"labels": {CAPACITY: "in-quota"}}}, f"writes the label {CAPACITY}"),
        ({"metadata": {"annotations": {RESERVATION: "{}"}}}, f"writes the annotation {RESERVATION}"),
        ({"metadata": {"labels": {PREEMPTIBLE: None}}}, "is fixed when a pod is created, for everybody"),
        ({"metadata": {"labels": {PREEMPTIBLE: "true"}}}, "is fixed when a pod is created, for everybody"),
        ({"metadata": {"labels": None}}, "is fixed when a pod is created, for everybody"),
    ]
    for change, message in refusals:
        assert message in server.refused("kubectl", *patch("ann", "held", change)), change
    through_status = patch("ann", "held", {"metadata": {"labels": {CAPACITY: "in-quota"}}}, "--subresource=status")
    assert f"writes the label {CAPACITY}" in server.refused("kubectl", *through_status)
    as_admin = patch("", "held", {"spec": {"schedulingGates": [OTHER]}})
    assert f"only {BRAIN} takes" in server.refused("kubectl", *(arg for arg in as_admin if arg != "--as="))

    # What leaves these fields alone passes, other people's gates included.
    server.done("kubectl", *patch("ann", "held", {"metadata": {"labels": {"app": None}, "annotations": {"a": "b"}}}))
    server.done("kubectl", *patch("ann", "held", {"spec": {"schedulingGates": [GATE]}}))
    server.done("kubectl", *patch("ann", "held", {"status": {"message": "x"}}, "--subresource=status"))

    # The brain lets it in, in one patch; what it wrote stays the brain's.
    written = {"metadata": {"labels": {CAPACITY: "in-quota"}, "annotations": {RESERVATION: "{}"}}}
    server.done("kubectl", *patch(BRAIN, "held", {**written, "spec": {"schedulingGates": None}}))
    for metadata in ({"labels": {CAPACITY: None}}, {"labels": {CAPACITY: "x"}}, {"annotations": {RESERVATION: None}}):
        assert f"only {BRAIN} writes" in server.refused("kubectl", *patch("ann", "held", {"metadata": metadata}))
    server.done("kubectl", *patch("ann", "held", {"metadata": {"annotations": {"a": None}}}))
    server.done("kubectl", *patch(BRAIN, "held", {"metadata": {"labels": {CAPACITY: None}}}))
    message = server.refused("kubectl", *patch(BRAIN, "held", {"metadata": {"labels": {PREEMPTIBLE: None}}}))
    assert "is fixed when a pod is created" in message
    server.done("kubectl", "delete", "pod/held", "-n", "team", ANN, "--force")


def test_other_subresources_do_not_carry_labels_and_annotations(server: ApiServer) -> None:
    """So the policy need not look at them."""
    server.done("kubectl", "create", ANN, "-f", "-", document=pod("sub"))
    metadata = {"labels": {CAPACITY: "in-quota"}, "annotations": {RESERVATION: "{}"}}
    for subresource in ("ephemeralcontainers", "resize"):
        server.done("kubectl", *patch("ann", "sub", {"metadata": metadata}, f"--subresource={subresource}"))
        found = json.loads(server.done("kubectl", "get", "pod/sub", "-n", "team", "-o", "json"))["metadata"]
        assert CAPACITY not in found.get("labels", {})
        assert RESERVATION not in found.get("annotations", {})


def test_the_brain_may_nominate_and_evict_but_not_delete(server: ApiServer) -> None:
    server.done("kubectl", "create", ANN, "-f", "-", document=pod("nominated"))
    change = {"status": {"nominatedNodeName": "n1"}}
    server.done("kubectl", *patch(BRAIN, "nominated", change, "--subresource=status"))
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "nominated", "namespace": "team"}}
    path = "/api/v1/namespaces/team/pods/nominated/eviction"
    assert "forbidden" in server.refused("kubectl", "delete", "pod/nominated", "-n", "team", f"--as={BRAIN}")
    server.done("kubectl", "create", f"--raw={path}", "-f", "-", f"--as={BRAIN}", document=eviction)


def test_only_the_brain_labels_namespaces(server: ApiServer) -> None:
    label = names.QUOTA_LABEL
    message = server.refused("kubectl", "label", "ns/free", f"{label}=true", ANN)
    assert f"only {BRAIN} writes the label {label} of namespaces" in message
    assert "create an ElasticQuota in it" in message
    for args in (
        ["label", "ns/team", f"{label}-", ANN],
        ["label", "ns/team", f"{label}=false", "--overwrite"],
        ["patch", "ns/team", "--type=merge", '--patch={"metadata":{"labels":null}}', ANN],
        [*_through_status(label), ANN],
    ):
        assert "leave it as it is" in server.refused("kubectl", *args), args
    new = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "new", "labels": {label: "true"}}}
    assert "leave it as it is" in server.refused("kubectl", "create", "-f", "-", ANN, document=new)

    server.done("kubectl", "label", "ns/team", "purpose=test", ANN)
    server.done("kubectl", "label", "ns/free", "purpose=test", ANN)
    server.done("kubectl", "create", "namespace", "new", ANN)
    server.done("kubectl", "label", "ns/new", f"{label}=true", f"--as={BRAIN}")
    server.done("kubectl", "label", "ns/new", f"{label}-", f"--as={BRAIN}")


def _through_status(label: str) -> list[str]:
    patch_ = json.dumps({"metadata": {"labels": {label: None}}})
    return ["patch", "ns/team", "--subresource=status", "--type=merge", f"--patch={patch_}"]


def test_where_the_webhook_does_it_the_policy_goes(server: ApiServer) -> None:
    """Nobody serves here: with Ignore a pod comes in without a gate, with Fail it does not come in."""
    webhook = {"url": "https://127.0.0.1:1"}
    try:
        server.release("upgrade", webhook=webhook, quotas={"gate": "webhook"})
        until(lambda: gates(server, pod("p")) == [])
        server.release("upgrade", webhook=webhook, quotas={"gate": "webhook", "gateFailurePolicy": "Fail"})
        create = ["kubectl", "create", ANN, "--dry-run=server", "-f", "-"]
        until(lambda: "failed calling webhook" in server.run(*create, document=pod("p")).stderr)
        for apart in (
            pod("p", nodeName="n1"),
            pod("p", metadata=owner("DaemonSet")),
            pod("p", "free"),
            pod("p", "n8s"),
        ):
            assert gates(server, apart) == []
        server.done(*create, document=pod("p", schedulingGates=[GATE]))
    finally:
        server.release("upgrade", webhook={"enabled": False})
    until(lambda: gates(server, pod("p")) == [GATE])
