"""Device plugins that no agent can tell to look again, nodes with a problem; GPUs are simulated, all else is real."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import yaml

from n8s import names
from tests.e2e.lab import Lab, pod

pytestmark = pytest.mark.e2e

NODE = "a30"
SELECTED = "nvidia.com/gpu.present"
"""Node label by which the GPU operator's DaemonSet, as it stands in the cluster, selects its nodes."""
PLAIN = f"""
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: nvidia-device-plugin-daemonset, namespace: kube-system}}
spec:
  selector: {{matchLabels: {{name: nvidia-device-plugin-ds}}}}
  template:
    metadata: {{labels: {{name: nvidia-device-plugin-ds}}}}
    spec:
      nodeSelector: {{kubernetes.io/hostname: {NODE}}}
      automountServiceAccountToken: false
      tolerations: [{{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}}]
      containers:
        - name: nvidia-device-plugin-ctr
          image: nvidia/k8s-device-plugin:local
          args: [--device-plugin-dir=/var/lib/kubelet/device-plugins, --hardware=/var/lib/nebulnetes-sim]
          volumeMounts:
            - {{name: device-plugin, mountPath: /var/lib/kubelet/device-plugins}}
            - {{name: hardware, mountPath: /var/lib/nebulnetes-sim}}
      volumes:
        - name: device-plugin
          hostPath: {{path: /var/lib/kubelet/device-plugins}}
        - name: hardware
          hostPath: {{path: /var/lib/nebulnetes-sim}}
"""
"""A plugin installed as by NVIDIA's manifest, on one node; it does not tolerate our taint."""


@pytest.fixture(scope="module", autouse=True)
def _blind(lab: Lab) -> Iterator[None]:
    """Agents do not see the processes of their nodes."""
    lab.enable(NODE)
    lab.release.install({"agent": {"hostPID": False}})
    yield
    lab.release.install()


def plugins(lab: Lab) -> list[str]:
    """The node's pods in the GPU operator's namespace, by uid."""
    pods = lab.cluster.api.items("pods", namespace="gpu-operator", fields=f"spec.nodeName={NODE}")
    return [each["metadata"]["uid"] for each in pods]


def missing(lab: Lab) -> dict[str, int]:
    """Devices that the node's two GPUs do not have, and that fill both: so that others find profiles it lacks."""
    held = {placement.partition("@")[0] for gpu in lab.geometry(NODE) for placement in gpu}
    return {"1g.6gb": 5} if "4g.24gb" in held else {"4g.24gb": 2}


def problem(lab: Lab) -> str:
    """What the node's annotation says is wrong."""
    text: str = lab.raw_node(NODE)["metadata"].get("annotations", {}).get(names.PROBLEM_ANNOTATION, "")
    return text


@contextlib.contextmanager
def plain_plugin(lab: Lab) -> Iterator[None]:
    """In the GPU operator's place, NVIDIA's manifest has installed the plugin on the node."""
    lab.cluster.kubectl("label", "node", NODE, f"{SELECTED}-")
    try:
        lab.until("the GPU operator's plugin is gone", lambda: not plugins(lab))
        lab.cluster.apply(PLAIN)
        yield
    finally:
        lab.cluster.api.delete("daemonsets", "nvidia-device-plugin-daemonset", namespace="kube-system")
        lab.cluster.kubectl("label", "node", NODE, f"{SELECTED}=true")
        lab.until("the GPU operator's plugin is back", lambda: plugins(lab))


def test_the_brain_replaces_a_plugin_that_the_agent_cannot_signal(lab: Lab, namespace: str) -> None:
    lab.enable(NODE)
    before = plugins(lab)
    lab.create(namespace, pod("one", missing(lab), node=NODE))
    lab.running(namespace, "one")
    assert len(plugins(lab)) == 1
    assert plugins(lab) != before
    assert "the agent does not see the node's processes" in lab.event("default", NODE, "MigPluginReplaced")
    assert problem(lab) == ""
    lab.until("the node is open again", lambda: lab.open(NODE))


def test_a_plugin_that_would_not_come_back_is_left_alone_until_it_would(lab: Lab, namespace: str) -> None:
    lab.enable(NODE)
    with plain_plugin(lab):
        told = "kube-system/nvidia-device-plugin-daemonset would not come back"
        lab.event("default", NODE, "MigPluginOutOfReach", told)
        lab.until("the annotation says so", lambda: told in problem(lab))
        geometry = lab.geometry(NODE)
        lab.create(namespace, pod("one", missing(lab), node=NODE))
        lab.event(namespace, "one", "MigNoRoom", f"has a device plugin that nobody can have look again ({NODE})")
        assert lab.geometry(NODE) == geometry
        assert lab.open(NODE)

        mended = yaml.safe_load(PLAIN)
        mended["spec"]["template"]["spec"]["tolerations"].append(
            {"key": names.REPARTITIONING_TAINT, "operator": "Exists"}
        )
        lab.cluster.apply(yaml.safe_dump(mended))
        lab.running(namespace, "one")
        lab.until("nothing is wrong any more", lambda: not problem(lab))


def test_a_wrong_strategy_is_shown_until_it_is_mended(lab: Lab) -> None:
    lab.enable(NODE)
    label = ("label", "node", NODE, "--overwrite")
    lab.cluster.kubectl(*label, f"{names.MIG_STRATEGY_LABEL}=single")
    try:
        lab.event("default", NODE, "MigStrategy", "nvidia.com/mig.strategy=single")
        lab.until("the annotation says so", lambda: problem(lab).startswith("MigStrategy: "))
    finally:
        lab.cluster.kubectl(*label, f"{names.MIG_STRATEGY_LABEL}=mixed")
    lab.until("nothing is wrong any more", lambda: not problem(lab))
