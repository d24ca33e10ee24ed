"""``n8s plan``: what it plans, how well, and what it says of files that it cannot plan."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from brain.decide.partition import plan
from brain.model.mig import invalid
from brain.model.snapshot import Snapshot
from brain.offline import cluster, scenario
from brain.offline.__main__ import main
from tests.solver import best

SCENARIOS = Path(__file__).parents[2] / "data" / "mig_scenarios.jsonl"
MIG = "nvidia.com/mig-3g.20gb"
PROBLEMS = [json.loads(line) for line in SCENARIOS.read_text().splitlines()]


@pytest.mark.parametrize("problem", PROBLEMS, ids=[problem["name"] for problem in PROBLEMS])
def test_every_scenario_reaches_its_proven_optimum(problem: dict[str, Any]) -> None:
    """Priority by priority; the total counts base profiles only: a world that others serve as well may do better."""
    name, world = scenario.read(problem, "problem")
    result = plan(world)
    optimum = best(world)
    assert optimum == {
        level: sum(pod.priority == level and pod.key in result.assigned for pod in world.pods)
        for level in sorted({pod.priority for pod in world.pods}, reverse=True)
    }
    assert name == problem["name"]
    assert len(result.assigned) >= problem["optimum"]["placed_highest_priority_first"]
    assert result.bound >= len(result.assigned)
    check_promises(world, dict(result.assigned), result.geometries)


def check_promises(world: Snapshot, assigned: dict[str, str], geometries: Any) -> None:
    """By counting anew: valid geometries, nothing used gone, devices and cpu for all that are assigned."""
    pods = {pod.key: pod for pod in world.pods}
    for node in world.nodes:
        assert node.agent is not None
        devices: dict[str, int] = {}
        for gpu in node.agent.gpus:
            profiles = {profile.name: profile for profile in gpu.profiles}
            geometry = geometries.get(node.name, {}).get(gpu.index, gpu.geometry)
            assert not invalid(profiles, geometry)
            fixed = [instance.placement for instance in gpu.instances if instance.fixed]
            assert set(fixed) <= set(geometry)
            for placement in set(geometry) - set(fixed):
                resource = profiles[placement.profile].resource
                devices[resource] = devices.get(resource, 0) + 1
        here = [pods[key] for key, name in assigned.items() if name == node.name]
        assert not here or not node.taints
        for resource in {name for pod in here for name in pod.request}:
            asked = sum(pod.request.get(resource, 0) for pod in here)
            assert asked <= (devices | dict(node.allocatable)).get(resource, 0), resource
        assert all(node.labels.get(key) == value for pod in here for key, value in pod.node_selector.items())


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["plan", *arguments])
    out = capsys.readouterr()
    return code, out.out, out.err


def small(**changes: Any) -> dict[str, Any]:
    """One A100 with a used 1g at slot 4, and a pod that wants 3g."""
    device = {"profile": "1g.5gb", "start": 4, "used": True}
    node = {
        "name": "n1",
        "product": "NVIDIA-A100-SXM4-40GB",
        "cpu_milli": 8000,
        "memory_bytes": 1 << 36,
        "gpus": [{"index": 0, "devices": [device]}],
    }
    pod = {"name": "p", "namespace": "a", "requests": {"nvidia.com/mig-3g.20gb": 1}}
    return {"name": "small", "nodes": [node], "pods": [pod]} | changes


def test_json_of_one_scenario(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "small.json"
    file.write_text(json.dumps(small()))
    code, out, _ = run(capsys, "--output", "json", str(file))
    assert code == 0
    geometry = [{"profile": "3g.20gb", "start": 0}, {"profile": "1g.5gb", "start": 4}]
    assert json.loads(out) == {
        "name": "small",
        "placed": 1,
        "bound": 1,
        "assignments": {"a/p": "n1"},
        "geometries": {"n1": {"0": geometry}},
        "unplaced": {},
    }


def test_one_object_a_line_also_packed_and_from_standard_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "two.jsonl.gz"
    packed.write_bytes(gzip.compress(f"{json.dumps(small())}\n\n{json.dumps(small(name='other'))}\n".encode()))
    code, out, _ = run(capsys, "--output", "json", str(packed))
    assert code == 0
    assert [json.loads(line)["name"] for line in out.splitlines()] == ["small", "other"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(json.dumps(small()).encode())))
    code, out, _ = run(capsys, "--output", "json", "-")
    assert (code, json.loads(out)["placed"]) == (0, 1)


def test_text_shows_slots_and_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "small.json"
    impossible = {"name": "q", "requests": {"nvidia.com/mig-4g.20gb": 1}}
    file.write_text(json.dumps(small(pods=[*small()["pods"], impossible])))
    code, out, _ = run(capsys, str(file))
    assert code == 0
    assert "1 of 2 pods find room (no plan places more); 1 GPUs change" in out
    assert "+3g.20gb" in out
    assert "#1g.5gb" in out
    assert "no node has room for 1 nvidia.com/mig-4g.20gb" in out


def node_object(**changes: Any) -> dict[str, Any]:
    return {
        "kind": "Node",
        "metadata": {
            "name": "gpu-1",
            "labels": {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB", "nvidia.com/gpu.count": "1"},
            "annotations": {
                "n8s.nebuly.ai/status-gpu-0-1g.5gb-used": "1",
                "n8s.nebuly.ai/status-gpu-0-1g.5gb-free": "2",
            },
        },
        "spec": {},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "allocatable": {"cpu": "8", "memory": "64Gi", "pods": "110", "nvidia.com/mig-1g.5gb": "3"},
        },
    } | changes


def pod_object(name: str, resource: str, node: str = "") -> dict[str, Any]:
    return {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "a", "uid": name},
        "spec": {
            "nodeName": node,
            "containers": [{"name": "c", "resources": {"limits": {resource: "1"}}}],
        },
        "status": {"phase": "Running" if node else "Pending"},
    }


@pytest.mark.parametrize("annotated", [True, False])
def test_what_kubectl_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str], annotated: bool) -> None:
    node = node_object()
    if not annotated:
        del node["metadata"]["annotations"]
    items = [
        node,
        pod_object("runs", "nvidia.com/mig-1g.5gb", "gpu-1"),
        pod_object("waits", "nvidia.com/mig-3g.20gb"),
        pod_object("cannot", "nvidia.com/mig-7g.40gb"),
    ]
    file = tmp_path / "cluster.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    code, out, _ = run(capsys, "--output", "json", str(file))
    result = json.loads(out)
    assert code == 0
    assert result["assignments"] == {"a/waits": "gpu-1"}
    assert list(result["unplaced"]) == ["a/cannot"]
    assert {entry["profile"] for entry in result["geometries"]["gpu-1"]["0"]} == {"3g.20gb", "1g.5gb"}


def planned(capsys: pytest.CaptureFixture[str], tmp_path: Path, *items: dict[str, Any]) -> dict[str, Any]:
    file = tmp_path / "list.json"
    file.write_text(json.dumps({"kind": "List", "items": items}))
    code, out, _ = run(capsys, "--output", "json", str(file))
    assert code == 0
    document: dict[str, Any] = json.loads(out)
    return document


def advertising(devices: dict[str, str]) -> dict[str, Any]:
    """A node whose devices are advertised, and not annotated."""
    node = node_object()
    del node["metadata"]["annotations"]
    kept = {name: n for name, n in node["status"]["allocatable"].items() if not name.startswith("nvidia.com/")}
    node["status"]["allocatable"] = kept | devices
    return node


def test_gated_pods_are_not_planned_for_and_said_to_be_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gated = pod_object("gated", "nvidia.com/mig-3g.20gb")
    gated["spec"]["schedulingGates"] = [{"name": "n8s.nebuly.ai/quota"}]
    file = tmp_path / "list.json"
    file.write_text(json.dumps({"kind": "List", "items": [node_object(), gated]}))
    code, out, _ = run(capsys, str(file))
    assert code == 0
    assert "0 GPUs change; 1 more behind scheduling gates" in " ".join(out.split())
    assert "why not" not in out


def test_devices_of_bound_pods_are_counted_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = advertising({"nvidia.com/mig-1g.5gb": "7"})
    runs = [pod_object(f"a{number}", "nvidia.com/mig-1g.5gb", "gpu-1") for number in range(3)]
    waits = [pod_object(f"b{number}", "nvidia.com/mig-1g.5gb") for number in range(4)]
    result = planned(capsys, tmp_path, node, *runs, *waits)
    assert (result["placed"], result["bound"], result["geometries"]) == (4, 4, {})
    large = planned(capsys, tmp_path, node, *runs, pod_object("large", "nvidia.com/mig-3g.20gb"))
    assert large["assignments"] == {"a/large": "gpu-1"}


def test_devices_of_bound_pods_beyond_what_is_advertised_are_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [pod_object(f"a{number}", "nvidia.com/mig-3g.20gb", "gpu-1") for number in range(2)]
    waits = pod_object("b", "nvidia.com/mig-3g.20gb")
    for shown in ({"nvidia.com/mig-3g.20gb": "1"}, {}):
        result = planned(capsys, tmp_path, advertising(shown), *runs, waits)
        assert (result["placed"], result["bound"]) == (0, 0)
    # More than the GPU can hold: then what is advertised is all there is to go by.
    few = advertising({"nvidia.com/mig-4g.20gb": "1"})
    few["metadata"]["labels"]["nvidia.com/gpu.count"] = "1"
    assert planned(capsys, tmp_path, few, *runs, waits)["assignments"] == {"a/b": "gpu-1"}


@pytest.mark.parametrize(
    ("devices", "annotation", "gpus"),
    [({}, "", 1), ({"nvidia.com/mig-1g.5gb": "14"}, "", 2), ({}, "n8s.nebuly.ai/status-gpu-3-1g.5gb-used", 4)],
)
def test_gpus_that_no_label_counts(devices: dict[str, str], annotation: str, gpus: int) -> None:
    node = advertising(devices)
    node["metadata"]["labels"].pop("nvidia.com/gpu.count", None)
    node["metadata"]["annotations"] = {annotation: "1"} if annotation else {}
    (found,) = cluster.read({"kind": "List", "items": [node]}, "file").nodes
    assert found.agent is not None
    assert len(found.agent.gpus) == gpus


@pytest.mark.parametrize("device", ["1g.5gb.shared", "3g.39gb"])
def test_devices_that_the_model_does_not_have_only_count(
    device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd, other = advertising({f"nvidia.com/mig-{device}": "1"}), advertising({})
    other["metadata"]["name"] = other["metadata"]["uid"] = "gpu-2"
    pods = [pod_object("p", f"nvidia.com/mig-{device}"), pod_object("q", "nvidia.com/mig-3g.20gb")]
    result = planned(capsys, tmp_path, odd, other, *pods)
    assert result["assignments"] == {"a/p": "gpu-1", "a/q": "gpu-2"}
    assert list(result["geometries"]) == ["gpu-2"]


@pytest.mark.parametrize(
    ("product", "device", "reason"),
    [
        (None, "", "has no GPU model that is known (label nvidia.com/gpu.product) (gpu-1)"),
        ("Voodoo", "", "has no GPU model that is known (label nvidia.com/gpu.product=Voodoo) (gpu-1)"),
        (
            "NVIDIA-A100-SXM4-40GB",
            "nvidia.com/mig-1g.5gb.shared",
            "has nvidia.com/mig-1g.5gb.shared, which is no MIG device of its GPU model NVIDIA-A100-SXM4-40GB (gpu-1)",
        ),
    ],
)
def test_a_node_whose_gpus_are_not_known_says_so(
    product: str | None, device: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = advertising({device: "1"} if device else {})
    for labels in ({}, {"n8s.nebuly.ai/auto-mig-enabled": "true"}):
        node["metadata"]["labels"] = labels | ({"nvidia.com/gpu.product": product} if product else {})
        result = planned(capsys, tmp_path, node, pod_object("p", "nvidia.com/mig-3g.20gb"))
        assert result["unplaced"]["a/p"] == f"no node has room for 1 nvidia.com/mig-3g.20gb: {reason}"


def test_a_gpu_that_a_pod_has_as_a_whole_is_not_cut_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = advertising({"nvidia.com/gpu": "1"})
    node["metadata"]["labels"]["nvidia.com/gpu.count"] = "1"
    result = planned(
        capsys,
        tmp_path,
        node,
        pod_object("whole", "nvidia.com/gpu", "gpu-1"),
        pod_object("p", "nvidia.com/mig-3g.20gb"),
    )
    assert result["placed"] == 0
    assert "has no GPU that can be partitioned: a pod has it as a whole" in result["unplaced"]["a/p"]


def test_namespaces_and_what_pods_demand_of_each_other() -> None:
    zone = {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "x"}}, "namespaceSelector": {}}
    apart = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [zone]}}
    pod = pod_object("p", "nvidia.com/mig-1g.5gb")
    pod["spec"]["affinity"] = apart
    pod["metadata"]["labels"] = {"n8s.nebuly.ai/pod-group": "g"}
    namespace = {"kind": "Namespace", "metadata": {"name": "a", "labels": {"team": "t"}}}
    world = cluster.read({"kind": "List", "items": [node_object(), pod, namespace]}, "file")
    assert world.namespaces == {"a": {"team": "t"}}
    (found,) = world.pods
    assert [term.topology_key for term in found.anti_affinity] == ["zone"]
    assert (found.group, found.unschedulable) == ("group/a/g", True)


def asking(limits: dict[str, str]) -> dict[str, Any]:
    asks = pod_object("p", "x/y")
    asks["spec"]["containers"][0]["resources"]["limits"] = limits
    return asks


def changed(document: dict[str, Any], path: list[Any], value: Any) -> str:
    """A document with one value replaced, as text."""
    copy = json.loads(json.dumps(document))
    place = copy
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return json.dumps(copy)


LIST = {"kind": "List", "items": [node_object()]}
OVERLAP = [{"profile": "3g.20gb", "start": 4, "used": True}, {"profile": "1g.5gb", "start": 5, "used": False}]

# (what is wrong, text of the file, what is said of it)
BAD = [
    ("no JSON", "{", "bad.json: is not JSON: "),
    ("no scenario", "[]", "bad.json: Expected `object`, got `array`"),
    ("field missing", '{"name": "x", "pods": []}', "bad.json: Object missing required field `nodes`"),
    (
        "YAML",
        "kind: List",
        "bad.json: is not JSON: Expecting value: line 1 column 1 (char 0); kubectl prints JSON with",
    ),
    ("empty", "\n", "bad.json: is empty"),
    ("one object", json.dumps(node_object()), "bad.json: is a Node, expected a List, as `kubectl get nodes,pods"),
    ("wrong type", changed(small(), ["nodes", 0, "cpu_milli"], "8"), "$.nodes[0].cpu_milli: Expected `int`, got `str`"),
    ("negative", changed(small(), ["nodes", 0, "memory_bytes"], -1), "$.nodes[0].memory_bytes: -1 is negative"),
    ("product", changed(small(), ["nodes", 0, "product"], "Voodoo"), "$.nodes[0].product: 'Voodoo' is not a known GPU"),
    (
        "profile",
        changed(small(), ["nodes", 0, "gpus", 0, "devices", 0, "profile"], "9g"),
        "$.nodes[0].gpus[0].devices[0].profile: '9g' is no profile of NVIDIA-A100-SXM4-40GB",
    ),
    ("start", changed(small(), ["nodes", 0, "gpus", 0, "devices", 0, "start"], 7), "cannot start at slot 7"),
    (
        "overlap",
        changed(small(), ["nodes", 0, "gpus", 0, "devices"], OVERLAP),
        "devices[1]: the hardware does not",
    ),
    (
        "same node twice",
        json.dumps(small(nodes=small()["nodes"] * 2)),
        "$.nodes[1]: another one has the same name",
    ),
    (
        "same pod twice",
        json.dumps(small(pods=small()["pods"] * 2)),
        "$.pods[1]: another one has the same namespace and name",
    ),
    (
        "another of the name",
        json.dumps({"kind": "List", "items": [node_object()] * 2}),
        "another Node has the same name",
    ),
    ("nested too deeply", "[" * 200_000, "nested too deeply"),
    (
        "a number of GPUs beyond all",
        changed(LIST, ["items", 0, "metadata", "labels", "nvidia.com/gpu.count"], "99999999999"),
        "is not a number of GPUs, at most 99",
    ),
    ("no list", '{"kind": "List"}', "$.items: expected a list of nodes, pods, namespaces and jobs"),
    (
        "bad namespace",
        '{"kind": "List", "items": [{"kind": "Namespace"}]}',
        "$.items[0]: Object missing required field `metadata`",
    ),
    (
        "other kind",
        '{"kind": "List", "items": [{"kind": "Service"}]}',
        "$.items[0].kind: 'Service' is none of Node, Pod, Job and Namespace",
    ),
    (
        "quantity",
        changed(LIST, ["items", 0, "status", "allocatable", "cpu"], "lots"),
        "$.items[0].status.allocatable[cpu]: 'lots' is not a Kubernetes quantity",
    ),
    (
        "quantity of a container",
        json.dumps({"kind": "List", "items": [asking({"cpu": "lots"})]}),
        "$.items[0].spec.containers[0].resources.limits[cpu]: 'lots' is not a Kubernetes quantity",
    ),
    (
        "a field of a pod",
        changed({"kind": "List", "items": [pod_object("p", "x/y")]}, ["items", 0, "spec", "tolerations"], [{"key": 1}]),
        "$.items[0].spec.tolerations[0].key: Expected `str`, got `int`",
    ),
    ("too large a number", changed(small(), ["nodes", 0, "cpu_milli"], 1 << 63), "cpu_milli: is more than 2^63-1"),
    ("too large a count", json.dumps(small(pods=[{"name": "p", "requests": {MIG: 10**40}}])), "more than 2^63-1"),
    ("too large a priority", changed(small(), ["pods", 0, "priority"], 10**400), "$.pods[0].priority: is more than"),
    ("too large an index", changed(small(), ["nodes", 0, "gpus", 0, "index"], 10**30), "index: is more than 2^63-1"),
    ("half a letter", json.dumps(small(name="\ud800")), "half a surrogate pair"),
    (
        "a slip in a profile",
        json.dumps(small(pods=[{"name": "p", "requests": {"3g.20gb": 1}}])),
        "$.pods[0].requests: asks for 3g.20gb; expected MIG devices, such as nvidia.com/mig-1g.5gb",
    ),
    (
        "no requests",
        json.dumps(small(pods=[{"name": "p", "requests": {}}])),
        "$.pods[0].requests: asks for nothing; expected MIG devices",
    ),
    ("none of it", json.dumps(small(pods=[{"name": "p", "requests": {MIG: 0}}])), "$.pods[0].requests: asks for"),
    (
        "too much",
        changed(LIST, ["items", 0, "metadata", "annotations", "n8s.nebuly.ai/status-gpu-0-7g.40gb-used"], "1"),
        "$.items[0].metadata.annotations: 1 GPUs NVIDIA-A100-SXM4-40GB cannot hold the MIG devices that it names",
    ),
]


@pytest.mark.parametrize(("text", "said"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_input(text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.json"
    file.write_text(text)
    code, out, err = run(capsys, str(file))
    assert (code, out) == (2, "")
    assert err.startswith(f"n8s plan: {file}: ")
    assert said in err


def test_no_such_file_and_a_bad_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, str(tmp_path / "none.json"))
    assert code == 2
    assert "none.json: cannot be read: No such file or directory" in err
    lines = tmp_path / "lines.jsonl"
    lines.write_text(json.dumps(small()) + "\n{}\n")
    code, out, err = run(capsys, "--output", "json", str(lines))
    assert code == 2
    assert json.loads(out)["name"] == "small"
    assert "lines.jsonl, line 2: Object missing required field" in err


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.jsonl.gz"])
@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_file(name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / name
    file.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    assert run(capsys, str(file)) == (2, "", f"n8s plan: {file}: is empty\n")


def test_an_empty_list_is_nothing_to_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "empty.json"
    file.write_text('{"kind": "List", "items": []}')
    code, out, err = run(capsys, str(file))
    assert (code, err) == (0, "")
    assert "nothing to plan: no nodes and no pods" in out


@pytest.mark.parametrize("output", ["text", "json"])
def test_who_reads_may_stop(output: str) -> None:
    argv = [sys.executable, "-m", "brain.offline", "plan", "--output", output, str(SCENARIOS)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_same_in_same_out_whatever_the_hash_seed(tmp_path: Path) -> None:
    some = tmp_path / "some.jsonl"
    some.write_text("".join(SCENARIOS.read_text().splitlines(keepends=True)[::3]))
    argv = [sys.executable, "-m", "brain.offline", "plan", "--output", "json", str(some)]
    outputs = {
        subprocess.run(argv, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
