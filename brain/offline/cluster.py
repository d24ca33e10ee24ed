"""A cluster as ``kubectl get nodes,pods,namespaces,jobs -A -o json`` prints it, as a world to plan in.

No agent speaks here: the GPUs follow from the labels of GPU feature discovery and from the status annotations of
Nebulnetes. These count instances and do not say where they lie, so an arrangement is taken that leaves the most room;
where the real one is worse, the plan promises too much. Without annotations the advertised devices are laid out in the
same way, with what bound pods ask for beyond where that can be, and what these ask for counts as used. A node with
devices that its model does not have is left as it is: its devices only count. Every node with MIG GPUs is planned,
labelled or not. Namespaces may be left out: only what selects them by their labels needs them. Jobs may be too: of one
that is not there, the pods that are count as all that it wants.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from brain.model.mig import Gpu, Holder, Instance, InstanceState, Placement, Profile, invalid
from brain.model.node import Agent, Node
from brain.model.pod import Pod
from brain.model.snapshot import Snapshot
from brain.observe import convert
from brain.observe.convert import ConvertError
from brain.offline import hardware
from brain.offline.errors import InputError
from n8s import catalogue, names

_COUNT_LABEL: Final = "nvidia.com/gpu.count"
_COUNT: Final = re.compile(r"[0-9]{1,2}")
_MOST_GPUS: Final = 16
"""GPUs of a node whose label does not tell how many it has: the fewest that hold its MIG devices, up to this."""
_MOST_DEVICES: Final = 1_000
"""MIG devices of one resource on a node; no node holds so many."""
_STATUS: Final = re.compile(re.escape(names.GROUP) + r"/status-gpu-(\d+)-(.+)-(free|used)")


def read(document: Mapping[str, Any], file: str) -> Snapshot:
    """The world of a list of nodes, pods, namespaces and jobs.

    Raises:
        InputError: an item cannot be understood, or a label or annotation makes no sense.
    """
    items = document.get("items")
    if not isinstance(items, list):
        raise InputError(file, "$.items", "expected a list of nodes, pods, namespaces and jobs")
    nodes: list[tuple[str, Node]] = []
    pods: list[Pod] = []
    namespaces: dict[str, Mapping[str, str]] = {}
    jobs: dict[str, int] = {}
    seen: set[tuple[object, ...]] = set()
    for position, item in enumerate(items):
        path = f"$.items[{position}]"
        kind = item.get("kind") if isinstance(item, dict) else None
        try:
            if kind == "Node":
                nodes.append((path, convert.node(msgspec.json.encode(item))))
            elif kind == "Pod":
                pods.append(convert.pod(msgspec.json.encode(item)))
            elif kind == "Job":
                group, wanted = convert.job(msgspec.json.encode(item))
                jobs[group] = wanted
            elif kind == "Namespace":
                encoded = msgspec.json.encode(item)
                namespaces[convert.metadata_of(encoded).name] = convert.namespace(encoded)
            else:
                raise InputError(file, f"{path}.kind", f"{kind!r} is none of Node, Pod, Job and Namespace")
        except (ConvertError, UnicodeEncodeError) as error:
            problem, _, within = str(error).partition(" - at `$")
            raise InputError(file, path + within.rstrip("`"), problem) from error
        metadata = item.get("metadata", {})
        key = (kind, metadata.get("namespace"), metadata.get("name"))
        if key in seen:
            raise InputError(file, path, f"another {kind} has the same name, {metadata.get('name')!r}")
        seen.add(key)
    waiting = [replace(pod, unschedulable=True) if pod.waiting else pod for pod in pods]
    bound = Snapshot(pods=tuple(pods)).bound()
    known = tuple(_with_gpus(node, bound.get(node.name, ()), path, file) for path, node in nodes)
    return Snapshot(known, tuple(waiting), namespaces=namespaces, jobs=jobs)


def _with_gpus(node: Node, bound: Sequence[Pod], path: str, file: str) -> Node:
    product = node.labels.get(names.GPU_PRODUCT_LABEL)
    model = catalogue.lookup(product) if product is not None else None
    if product is None or model is None:
        said = f"={product}" if product is not None else ""
        return replace(node, unknown=f"has no GPU model that is known (label {names.GPU_PRODUCT_LABEL}{said})")
    text = node.labels.get(_COUNT_LABEL)
    if text is not None and not _COUNT.fullmatch(text):
        where = f"{path}.metadata.labels[{_COUNT_LABEL}]"
        raise InputError(file, where, f"{text[:20]!r} is not a number of GPUs, at most 99")
    annotated = list(_annotated(node, path, file))
    known = {profile.resource for profile in hardware.profiles(model)}
    odd = next((resource for _, resource, _ in annotated or _advertised(node, ()) if resource not in known), "")
    if odd:  # shared devices, say, or a profile that is new: its devices only count
        return replace(node, unknown=f"has {odd}, which is no MIG device of its GPU model {product}")
    gpus = None
    for contents in [annotated] if annotated else [_advertised(node, bound), _advertised(node, ())]:
        # What is bound beyond what is shown counts as well, where that can be.
        first = max([index for index, _, _ in contents], default=0) + 1
        counts = [int(text)] if text is not None else range(max(1, first), _MOST_GPUS + 1)
        gpus = gpus or next(filter(None, (_laid_out(model, product, count, contents) for count in counts)), None)
    if gpus is None:
        where = "metadata.annotations" if annotated else "status.allocatable"
        problem = f"{text or _MOST_GPUS} GPUs {product} cannot hold the MIG devices that it names"
        raise InputError(file, f"{path}.{where}", f"{problem} (node {node.name})")
    labels = {**node.labels, names.AUTO_MIG_LABEL: "true"}
    taken = _taken_whole(_held(gpus, bound), sum(pod.request.get(names.GPU, 0) for pod in bound))
    return replace(node, labels=labels, agent=Agent(connected=True, silent_seconds=0.0, gpus=taken))


def _held(gpus: Sequence[Gpu], bound: Sequence[Pod]) -> list[Gpu]:
    """GPUs whose used instances name a bound pod that asks for such; which pod has which of alike ones is not known."""
    wanted = [(resource, pod) for pod in bound for resource, count in pod.mig_request.items() for _ in range(count)]
    found = []
    for gpu in gpus:
        instances = []
        for instance in gpu.instances:
            resource = names.mig_resource(instance.profile)
            used = instance.state is InstanceState.USED
            claim = next((claim for claim in wanted if claim[0] == resource), None) if used else None
            if claim is not None:
                wanted.remove(claim)
                holder = Holder(claim[1].namespace, claim[1].name, "")
                instances.append(replace(instance, holder=holder))
            else:
                instances.append(instance)
        found.append(replace(gpu, instances=tuple(instances)))
    return found


def _taken_whole(gpus: Sequence[Gpu], count: int) -> tuple[Gpu, ...]:
    """GPUs of which so many are pods' as a whole: of those that hold no instance, the last."""
    empty = [gpu.index for gpu in gpus if not gpu.instances]
    taken = empty[max(0, len(empty) - count) :] if count else []
    return tuple(replace(gpu, problem="a pod has it as a whole") if gpu.index in taken else gpu for gpu in gpus)


def _annotated(node: Node, path: str, file: str) -> Iterator[tuple[int, str, InstanceState]]:
    """GPU index, resource and state of each instance that the status annotations count."""
    for key, value in sorted(node.annotations.items()):
        match = _STATUS.fullmatch(key)
        if match is not None and not _COUNT.fullmatch(value):
            raise InputError(file, f"{path}.metadata.annotations[{key}]", f"{value[:20]!r} is not a count, at most 99")
        if match is not None:
            state = InstanceState.USED if match.group(3) == "used" else InstanceState.FREE
            for _ in range(int(value)):
                yield int(match.group(1)), names.MIG_PREFIX + match.group(2), state


def _advertised(node: Node, bound: Sequence[Pod]) -> list[tuple[int, str, InstanceState]]:
    """The devices in ``status.allocatable``, and what bound pods ask for beyond, on no GPU in particular (index -1)."""
    asked: Counter[str] = Counter()
    for pod in bound:
        asked.update(pod.mig_request)
    shown = {name: count for name, count in node.allocatable.items() if name.startswith(names.MIG_PREFIX)}
    return [
        (-1, resource, InstanceState.USED if number < asked[resource] else InstanceState.FREE)
        for resource in sorted(shown.keys() | asked.keys())
        for number in range(min(max(shown.get(resource, 0), asked[resource]), _MOST_DEVICES))
    ]


def _laid_out(
    model: catalogue.GpuModel,
    product: str,
    count: int,
    contents: Sequence[tuple[int, str, InstanceState]],
) -> tuple[Gpu, ...] | None:
    """GPUs that hold the contents, large instances first and at their highest start; None where they cannot."""
    known = {profile.name: profile for profile in hardware.profiles(model)}
    by_resource = {profile.resource: profile for profile in known.values()}
    held: list[list[Instance]] = [[] for _ in range(count)]
    sized = sorted(contents, key=lambda item: -by_resource[item[1]].size if item[1] in by_resource else 0)
    for index, resource, state in sized:
        profile = by_resource.get(resource)
        if profile is None:
            return None
        candidates = range(count) if index < 0 else range(index, min(index + 1, count))
        place = next(filter(None, (_place(known, held[each], profile, each) for each in candidates)), None)
        if place is None:
            return None
        gpu, start = place
        held[gpu].append(Instance(profile.name, start, profile.size, state))
    return tuple(hardware.gpu(model, product, index, tuple(each)) for index, each in enumerate(held))


def _place(
    known: Mapping[str, Profile], held: Sequence[Instance], profile: Profile, index: int
) -> tuple[int, int] | None:
    for start in sorted(profile.starts, reverse=True):
        placements = [*(instance.placement for instance in held), Placement(start, profile.name)]
        if not invalid(known, placements):
            return index, start
    return None
