"""The CRDs and the chart on a real API server: rules in people's words, columns, and what upgrades keep.

etcd and an API server alone: the chart's pods are never started here, so nothing answers for the webhook.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.component.apiserver import ApiServer


def quota(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "n8s.nebuly.ai/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def refused(server: ApiServer, kind: str, spec: dict[str, Any]) -> str:
    return server.refused("kubectl", "apply", "--dry-run=server", "-f", "-", document=quota(kind, "q", spec))


GPU, GB = "nvidia.com/gpu", "n8s.nebuly.ai/gpu-memory"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"min": {GPU: 4}, "max": {GPU: 2}}, f"min must not be more than max for a resource that both name: {GPU}"),
        (
            {"min": {"cpu": 2, GPU: 1, "memory": "1e99999999"}, "max": {"cpu": "1999m", GPU: 2, "memory": 1}},
            "min must not be more than max for a resource that both name: cpu\n",
        ),
        ({"min": {"cpu": -1}}, "spec.min[cpu]: Invalid value: -1: must not be negative"),
        ({"min": {"cpu": 1}, "max": {GPU: "-1"}}, f'spec.max[{GPU}]: Invalid value: "-1": must not be negative'),
        ({"min": {GPU: "500m"}}, "devices and n8s.nebuly.ai/gpu-memory must be whole numbers"),
        ({"min": {"cpu": 1}, "max": {GB: "1.5"}}, "devices and n8s.nebuly.ai/gpu-memory must be whole numbers"),
        ({"min": {GB: "80Gi"}}, f"spec.min: Invalid value: {GB} is in GB, without a suffix: write 80, not 80Gi"),
        ({"min": {"cpu": 1}, "max": {GB: 10_000_001}}, f"spec.max: Invalid value: {GB} is in GB, without a suffix"),
        ({"min": {GB: "1e99999999"}}, '"1e99999999": must be a Kubernetes quantity'),
        (
            {"min": {"gpu": 1}},
            f"spec.min: Invalid value: gpu: no pod can ask for it; devices have a domain, e.g. {GPU}",
        ),
        ({"min": {"cpu": 1}, "max": {"pods": 1, GPU: 1}}, "spec.max: Invalid value: pods: no pod can ask for it"),
        ({"min": {"cpu": "much"}}, '"much": must be a Kubernetes quantity such as 2, 500m or 8Gi'),
        # Parsed, it would keep the API server busy for minutes.
        ({"min": {"cpu": "1e99999999"}}, '"1e99999999": must be a Kubernetes quantity such as 2, 500m or 8Gi'),
        ({"min": {"": 1}}, "spec.min: Invalid value: must name resources as Kubernetes does"),
        ({"min": {"cpu": 1}, "max": {"näme ✓": 1}}, "spec.max: Invalid value: must name resources as Kubernetes does"),
        ({"min": {"r" * 64: 1}}, "must name resources as Kubernetes does"),
        ({"min": {f"{'a' * 254}/gpu": 1}}, "must name resources as Kubernetes does"),
        ({"min": {"Example.com/gpu": 1}}, "must name resources as Kubernetes does"),
        ({"min": {"example.com/gpu/one": 1}}, "must name resources as Kubernetes does"),
        ({"min": {"cpu\n": 1}}, "must name resources as Kubernetes does"),
        # Before any rule: in a custom resource the API server takes no fraction as a number. The documents say so.
        ({"min": {"cpu": 1.5}}, 'spec.min.cpu: Invalid value: "number"'),
        ({"min": {}}, "spec.min: Invalid value: must name at least one resource"),
        ({"max": {"cpu": 1}}, "spec.min: Required value"),
        ({"min": {f"r/{number}": 1 for number in range(33)}}, "spec.min: Too many: 33: must have at most 32 items"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused_in_words(server: ApiServer, spec: dict[str, Any], message: str) -> None:
    assert message in refused(server, "ElasticQuota", spec)
    assert message in refused(server, "CompositeElasticQuota", {"namespaces": ["a"]} | spec)


@pytest.mark.parametrize(
    ("namespaces", "message"),
    [
        ([], "should have at least 1 items"),
        (["a", "b", "a"], 'spec.namespaces[2]: Duplicate value: "a"'),
        (["Team_A"], 'spec.namespaces[0]: Invalid value: "Team_A": must be the name of a namespace'),
    ],
)
def test_a_composites_namespaces(server: ApiServer, namespaces: list[str], message: str) -> None:
    assert message in refused(server, "CompositeElasticQuota", {"namespaces": namespaces, "min": {"cpu": 1}})


@pytest.mark.parametrize(
    "spec",
    [
        {"min": {"cpu": "500m", "memory": "8Gi", GPU: 2, GB: "40"}},
        {"min": {"cpu": "1500m"}, "max": {"cpu": 1500, GPU: "1k"}},
        {"min": {GPU: "2e3"}, "max": {GPU: "2k"}},
        {"min": {"cpu": 0}},
        {"min": {"a/Not_a.device-1": 1, "hugepages-2Mi": 1, "ephemeral-storage": "1Gi", f"{'a' * 253}/{'g' * 63}": 1}},
        {"min": {"cpu": 1, GB: 10_000_000}},
        {"min": {"cpu": "1.5"}},
    ],
)
def test_what_may_be_written(server: ApiServer, spec: dict[str, Any]) -> None:
    server.done("kubectl", "apply", "--dry-run=server", "-f", "-", document=quota("ElasticQuota", "q", spec))


def test_people_read_quotas_in_a_table_and_in_explanations(server: ApiServer) -> None:
    spec = {"namespaces": ["a", "b"], "min": {"cpu": 4}, "max": {"cpu": 8}}
    server.done("kubectl", "apply", "-f", "-", document=quota("CompositeElasticQuota", "team", spec))
    condition = {
        "type": "Active",
        "status": "True",
        "reason": "Active",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    status = {"status": {"used": {"cpu": "1500m"}, "observedGeneration": 1, "conditions": [condition]}}
    server.done("kubectl", "patch", "ceq/team", "--subresource=status", "--type=merge", f"--patch={json.dumps(status)}")
    heading, row = server.done("kubectl", "get", "ceqs").splitlines()
    assert heading.split() == ["NAME", "NAMESPACES", "MIN", "MAX", "USED", "ACTIVE", "AGE"]
    assert row.split()[:6] == ["team", '["a","b"]', '{"cpu":4}', '{"cpu":8}', '{"cpu":"1500m"}', "True"]
    explained = server.done("kubectl", "explain", "eq.spec.min")
    assert "What is guaranteed, by resource" in explained
    assert 'one and a half is "1.5", in quotes, or 1500m' in " ".join(explained.split())


def test_what_does_not_change_a_spec_passes_while_no_webhook_answers(server: ApiServer) -> None:
    written = quota("ElasticQuota", "waits", {"min": {"cpu": 1}})
    server.done("kubectl", "apply", "-f", "-", document=written)
    server.release("upgrade", webhook={"url": "https://127.0.0.1:1"})
    try:
        assert "failed calling webhook" in refused(server, "ElasticQuota", {"min": {"cpu": 2}})
        server.done("kubectl", "annotate", "eq/waits", "purpose=test")
        server.done("kubectl", "delete", "eq/waits")
    finally:
        server.release("upgrade", webhook={"enabled": False})


def test_an_upgrade_keeps_the_certificate_while_it_is_valid_for_the_address(server: ApiServer) -> None:
    def shown(what: str, path: str) -> str:
        return server.done("kubectl", "get", what, "-n", "n8s", "-o", f"jsonpath={{{path}}}")

    def certificate() -> str:
        return shown("secret/rel-nebulnetes-webhook-tls", ".data")

    def authority() -> bytes:
        return base64.b64decode(shown("secret/rel-nebulnetes-webhook-tls", r".data.ca\.crt"))

    def trusted() -> bytes:
        configuration = "validatingwebhookconfiguration/rel-nebulnetes-webhook"
        return base64.b64decode(shown(configuration, ".webhooks[0].clientConfig.caBundle"))

    def brains() -> tuple[str, str]:
        """The brain's Secret, and whom clients trust."""
        return shown("secret/rel-nebulnetes-brain-tls", ".data"), shown("configmap/n8s-brain-ca", r".data.ca\.crt")

    def pods() -> str:
        return shown("deployment/rel-nebulnetes-webhook", ".spec.template")

    # Without the API server asking it: nobody serves here.
    ignored = {"failurePolicy": "Ignore", "timeoutSeconds": 1}
    server.release("upgrade", webhook={"url": "https://127.0.0.1:1", **ignored})
    first, first_authority, first_pods = certificate(), authority(), pods()
    brain, brain_authority = brains()
    assert brain_authority.encode() == base64.b64decode(json.loads(brain)["ca.crt"])
    assert trusted() == first_authority
    server.release("upgrade", webhook={"url": "https://127.0.0.1:2", **ignored})
    assert (certificate(), pods()) == (first, first_pods)
    server.release("upgrade", webhook={"url": "https://127.0.0.2:2", **ignored})
    assert certificate() != first
    assert pods() != first_pods
    assert trusted() == authority() + first_authority, "until the new pods serve, the old ones do"
    assert brains() == (brain, brain_authority)
    server.release("upgrade", agent={"brainAddress": "127.0.0.3:1"}, webhook={"enabled": False})
    new, both = brains()
    assert new != brain
    assert both == base64.b64decode(json.loads(new)["ca.crt"]).decode() + brain_authority
    server.release("upgrade", webhook={"url": "https://127.0.0.2:2", **ignored})
    assert trusted() == authority() != first_authority
    server.release("upgrade", webhook={"enabled": False})


def test_quotas_outlive_the_release(server: ApiServer) -> None:
    server.done("kubectl", "apply", "-f", "-", document=quota("ElasticQuota", "kept", {"min": {"cpu": 1}}))
    server.done("helm", "uninstall", "rel", "--namespace", "n8s")
    assert "kept" in server.done("kubectl", "get", "eq", "-o", "name")
    server.release("install", webhook={"enabled": False})
    assert "kept" in server.done("kubectl", "get", "eq", "-o", "name")
