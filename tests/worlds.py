"""Builders of small worlds for tests: nodes with GPUs from the catalogue, pods, quotas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from brain.model.mig import Gpu, Holder, Instance, InstanceState, Profile
from brain.model.node import Agent, Node
from brain.model.pod import Daemon, Pod, Toleration
from n8s import catalogue, names

_LETTERS = {"f": InstanceState.FREE, "u": InstanceState.USED, "?": InstanceState.UNKNOWN, "b": InstanceState.BROKEN}


def profiles(model: str) -> tuple[Profile, ...]:
    """The profiles of a catalogue model."""
    known = catalogue.models()[model]
    return tuple(Profile(p.name, p.size, p.starts, p.max_count) for p in known.profiles)


def gpu(index: int, instances: str = "", model: str = "A100-40GB") -> Gpu:
    """A GPU whose instances are written ``profile@start state``, e.g. ``1g.5gb@4u 3g.20gb@0f``.

    States: f free, u used by a process, ? unknown, b broken; ``u:ns/pod`` used by that pod.
    """
    known = {profile.name: profile for profile in profiles(model)}
    made = []
    for number, text in enumerate(instances.split()):
        text, _, user = text.partition(":")  # noqa: PLW2901
        profile, _, rest = text.partition("@")
        start, letter = int(rest[:-1]), rest[-1]
        namespace, _, pod_name = user.partition("/")
        made.append(
            Instance(
                profile,
                start,
                known[profile].size,
                _LETTERS[letter],
                "" if letter == "b" else f"MIG-{index}-{profile}-{start}",
                number + 1,
                Holder(namespace, pod_name, "main") if user else None,
                (4711,) if letter == "u" and not user else (),
            )
        )
    product = catalogue.models()[model].product_names[0]
    slots = catalogue.models()[model].memory_slices
    return Gpu(index, product, slots, tuple(known.values()), tuple(made), f"GPU-{index}")


def agent(gpus: Sequence[Gpu], **changes: Any) -> Agent:
    """A connected agent whose device plugin shows what exists."""
    plain = Agent(connected=True, silent_seconds=0.0, gpus=tuple(gpus))
    return replace(replace(plain, allocatable=plain.devices), **changes)


def node(name: str, gpus: Sequence[Gpu] = (), agent_changes: Mapping[str, Any] | None = None, **changes: Any) -> Node:
    """A labelled node with an agent, 64 cpus, 256 GiB and room for 110 pods."""
    spoken = agent(gpus, **(agent_changes or {}))
    devices = {resource: len(ids) for resource, ids in spoken.devices.items()}
    amounts = {"cpu": 64_000, "memory": 256 << 30, "pods": 110}
    labels = {names.AUTO_MIG_LABEL: "true", "kubernetes.io/hostname": name}
    plain = Node(name, f"uid-{name}", labels, allocatable=amounts | devices, agent=spoken)
    return replace(plain, **changes)


def plugin(node_name: str, **changes: Any) -> Pod:
    """The device plugin's pod on a node, as the GPU operator makes it; it tolerates everything."""
    daemon = Daemon("nvidia-device-plugin-daemonset", ("nvidia-device-plugin",))
    plain = Pod("gpu-operator", "plugin-x", "uid-plugin-x", node=node_name, phase="Running", daemon=daemon, ready=True)
    return replace(replace(plain, tolerations=(Toleration(operator="Exists"),)), **changes)


def pod(name: str, mig: Mapping[str, int] | None = None, namespace: str = "team", **changes: Any) -> Pod:
    """A pod that the scheduler found unschedulable, asking for MIG profiles by name."""
    request = {names.mig_resource(profile): count for profile, count in (mig or {}).items()}
    request |= changes.pop("request", {})
    plain = Pod(namespace, name, f"uid-{namespace}-{name}", request=request, unschedulable=True)
    return replace(plain, **changes)


def bound(name: str, node_name: str, mig: Mapping[str, int] | None = None, **changes: Any) -> Pod:
    """A pod that runs on a node."""
    running = replace(pod(name, mig), node=node_name, phase="Running", unschedulable=False)
    request = {**running.request, **changes.pop("request", {})}
    return replace(running, request=request, **changes)
