"""Planning problems as documents: nodes with GPUs, and pods that wait.

Unlike a cluster, a scenario says what nodes have *left* for the waiting pods, and where each MIG device lies. Its nodes
take any number of pods.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from brain.model import resources
from brain.model.mig import Gpu, Instance, InstanceState, invalid
from brain.model.node import Agent, Node, Taint
from brain.model.pod import Pod
from brain.model.snapshot import Snapshot
from brain.offline import hardware
from brain.offline.errors import WHOLE, InputError
from n8s import catalogue, names

_LARGEST: Final = 2**63 - 1
"""Of any number, as Kubernetes has it."""
_PODS: Final = 1_000_000
"""Room for pods on a node: as good as any number."""


class _Device(msgspec.Struct, frozen=True):
    profile: str
    start: int
    used: bool


class _Gpu(msgspec.Struct, frozen=True):
    index: int
    devices: list[_Device]


class _Taint(msgspec.Struct, frozen=True):
    key: str
    effect: str
    value: str = ""


class _Node(msgspec.Struct, frozen=True):
    name: str
    product: str
    gpus: list[_Gpu]
    cpu_milli: int
    memory_bytes: int
    labels: dict[str, str] = {}
    taints: list[_Taint] = []


class _Pod(msgspec.Struct, frozen=True):
    name: str
    requests: dict[str, int]
    namespace: str = "default"
    priority: int = 0
    cpu_milli: int = 0
    memory_bytes: int = 0
    node_selector: dict[str, str] = {}
    created: int = 0


class _Scenario(msgspec.Struct, frozen=True):
    name: str
    nodes: list[_Node]
    pods: list[_Pod]


def read(document: Any, file: str) -> tuple[str, Snapshot]:
    """The name and the world of a scenario.

    Raises:
        InputError: it is none.
    """
    try:
        scenario = msgspec.convert(document, _Scenario)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `")
        raise InputError(file, path.rstrip("`") or WHOLE, problem) from error
    nodes = tuple(_node(node, f"$.nodes[{position}]", file) for position, node in enumerate(scenario.nodes))
    pods = tuple(_pod(pod, f"$.pods[{position}]", file) for position, pod in enumerate(scenario.pods))
    _unique([node.name for node in nodes], "$.nodes", "name", file)
    _unique([pod.key for pod in pods], "$.pods", "namespace and name", file)
    return scenario.name, Snapshot(nodes, pods)


def _node(node: _Node, path: str, file: str) -> Node:
    model = catalogue.lookup(node.product)
    if model is None:
        known = ", ".join(sorted(each.product_names[0] for each in catalogue.models().values()))
        raise InputError(file, f"{path}.product", f"{node.product!r} is not a known GPU; known are {known}")
    for field, value in (("cpu_milli", node.cpu_milli), ("memory_bytes", node.memory_bytes)):
        _amount(value, f"{path}.{field}", file)
    gpus = tuple(
        _gpu(gpu, node.product, model, f"{path}.gpus[{position}]", file) for position, gpu in enumerate(node.gpus)
    )
    _unique([gpu.index for gpu in gpus], f"{path}.gpus", "index", file)
    return Node(
        name=node.name,
        labels={**node.labels, names.AUTO_MIG_LABEL: "true"},
        taints=tuple(Taint(taint.key, taint.value, taint.effect) for taint in node.taints),
        allocatable={resources.CPU: node.cpu_milli, resources.MEMORY: node.memory_bytes, resources.PODS: _PODS},
        agent=Agent(connected=True, silent_seconds=0.0, gpus=tuple(sorted(gpus, key=lambda gpu: gpu.index))),
    )


def _gpu(gpu: _Gpu, product: str, model: catalogue.GpuModel, path: str, file: str) -> Gpu:
    _amount(gpu.index, f"{path}.index", file)
    known = {profile.name: profile for profile in hardware.profiles(model)}
    instances = []
    for position, device in enumerate(gpu.devices):
        where = f"{path}.devices[{position}]"
        profile = known.get(device.profile)
        if profile is None:
            expected = ", ".join(known)
            raise InputError(file, f"{where}.profile", f"{device.profile!r} is no profile of {product}: {expected}")
        state = InstanceState.USED if device.used else InstanceState.FREE
        instances.append(Instance(profile.name, device.start, profile.size, state))
        refusal = invalid(known, [instance.placement for instance in instances])
        if refusal:
            raise InputError(file, where, f"the hardware does not hold it beside those before: {refusal}")
    return hardware.gpu(model, product, gpu.index, tuple(instances))


def _pod(pod: _Pod, path: str, file: str) -> Pod:
    amounts = {f"requests[{name}]": count for name, count in pod.requests.items()}
    for field, count in (amounts | {"cpu_milli": pod.cpu_milli, "memory_bytes": pod.memory_bytes}).items():
        _amount(count, f"{path}.{field}", file)
    if not any(count for name, count in pod.requests.items() if name.startswith(names.MIG_PREFIX)):
        expected = f"expected MIG devices, such as {names.MIG_PREFIX}1g.5gb"
        raise InputError(file, f"{path}.requests", f"asks for {', '.join(pod.requests) or 'nothing'}; {expected}")
    for field, count in (("priority", pod.priority), ("created", pod.created)):
        _amount(abs(count), f"{path}.{field}", file)
    return Pod(
        namespace=pod.namespace,
        name=pod.name,
        uid=f"{pod.namespace}/{pod.name}",
        created=pod.created,
        request={**pod.requests, resources.CPU: pod.cpu_milli, resources.MEMORY: pod.memory_bytes},
        unschedulable=True,
        priority=pod.priority,
        node_selector=pod.node_selector,
    )


def _amount(value: int, path: str, file: str) -> None:
    if value < 0:
        raise InputError(file, path, f"{value} is negative")
    if value > _LARGEST:
        raise InputError(file, path, "is more than 2^63-1")


def _unique(values: list[Any], path: str, field: str, file: str) -> None:
    seen = set()
    for position, value in enumerate(values):
        if value in seen:
            raise InputError(file, f"{path}[{position}]", f"another one has the same {field}, {value!r}")
        seen.add(value)
