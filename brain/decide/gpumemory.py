"""How many GB of GPU memory a pod counts for, where it asks for whole GPUs: those of the product that it gets.

The product is known of a pod that has a node, and of one that can go to nodes of one size only. Where it is not known
as the pod is let in, the default counts, and goes on counting for as long as the pod lives: what a pod counts for must
not grow by where kube-scheduler puts it, or it would be over its quota for no doing of its own. Which nodes have room
is not looked at, so that the count does not change with what others do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

from brain.decide import fit
from brain.model import resources
from brain.model.mig import Gpu
from brain.model.node import Node, Taint
from brain.model.pod import Pod
from n8s import catalogue, names

DEFAULT: Final = "default"
"""What stands for products that are not known, where sizes are shown by product."""
MIB_PER_GB: Final = 1024
_LABEL: Final = re.compile(r"[1-9][0-9]{0,8}")
_KEPT: Final = re.compile(r"/gpu-memory=([1-9][0-9]*)")
_MOST_KEPT: Final = 10_000
"""Answers that are kept, for pods that may go to different nodes."""
_PASSING: Final = "node.kubernetes.io/"
"""Start of the keys of taints that say how a node is just now."""


class GpuMemory:
    """GB that one whole ``nvidia.com/gpu`` counts for.

    Attributes:
        default: where the product is not known.
        products: by GPU product, of those that nodes have.
    """

    def __init__(self, default: int, nodes: Iterable[Node] = ()) -> None:
        """Of a cluster with such nodes; without any, the default for all."""
        self.default = default
        listed = list(nodes)
        self._sizes: dict[str, int] = {}
        for node in listed:
            product, size = _product(node), _size(node.labels)
            if product and size:
                self._sizes[product] = max(size, self._sizes.get(product, 0))
        self._of_node = {node.name: self._sizes.get(_product(node)) for node in listed}
        self._whole = [node for node in listed if _whole(node)]
        self.products = dict(sorted(self._sizes.items()))
        self._possible = {self._of_node[node.name] for node in self._whole}
        self._answers: dict[object, int | None] = {}
        self._capacities: dict[str, tuple[Node, int]] = {}

    @staticmethod
    def of(default: int, nodes: Sequence[Node]) -> GpuMemory:
        """That of some nodes: the same object as before where nothing that matters has changed."""
        last = _Last.made
        if last is not None and last.default == default and nodes is _Last.nodes:
            return last
        _Last.nodes, seen = nodes, _seen(nodes)
        if last is None or last.default != default or seen != _Last.seen:
            last, _Last.seen = GpuMemory(default, nodes), seen
            _Last.made = last
        return last

    def request(self, pod: Pod) -> dict[str, int]:
        """What a pod asks for, with ``n8s.nebuly.ai/gpu-memory``, in GB."""
        each = self.default
        if pod.request.get(names.GPU):
            each = _kept(pod) or self._told(pod) or self.default
        return resources.with_gpu_memory(pod.request, each)

    def promise(self, pod: Pod) -> str:
        """What the reservation of a pod must keep; empty where nodes say it, or the pod asks for no whole GPU."""
        return f"gpu-memory={self.default}" if pod.request.get(names.GPU) and self._told(pod) is None else ""

    def shown(self) -> dict[str, int]:
        """By product, and the default, for people."""
        return {**self.products, DEFAULT: self.default}

    def capacity(self, node: Node) -> int:
        """GB that the pods of a node can have at most: of GPUs that are partitioned all they have."""
        known = self._capacities.get(node.name)
        if known is None or known[0] is not node:
            known = self._capacities[node.name] = node, self._capacity(node)
        return known[1]

    def _capacity(self, node: Node) -> int:
        devices, partitioned = node.allocatable, 0
        if node.agent is not None and node.agent.gpus:
            devices = {names.GPU: devices.get(names.GPU, 0)}
            partitioned = sum(self._size(gpu) for gpu in node.agent.gpus if gpu.profiles)
        each = self._of_node.get(node.name) or self.default
        return partitioned + resources.with_gpu_memory(devices, each).get(names.GPU_MEMORY, 0)

    def _size(self, gpu: Gpu) -> int:
        return -(-gpu.memory_mib // MIB_PER_GB) or _catalogued(gpu.model) or self.default

    def _told(self, pod: Pod) -> int | None:
        """The size of the product that a pod has, or will have; None where that is not known."""
        if pod.node:
            return self._of_node.get(pod.node)
        product = pod.node_selector.get(names.GPU_PRODUCT_LABEL)
        if product is not None:
            return self._sizes.get(product) or _catalogued(product)
        if len(self._possible) == 1:
            return next(iter(self._possible))
        key = tuple(sorted(pod.node_selector.items())), pod.node_affinity, pod.tolerations
        if key not in self._answers:
            if len(self._answers) >= _MOST_KEPT:
                self._answers.clear()
            possible = {self._of_node[node.name] for node in self._whole if _allows(node, pod)}
            self._answers[key] = possible.pop() if len(possible) == 1 else None
        return self._answers[key]


class _Last:
    """The one made last, what was seen for it, and the nodes that it was asked for last."""

    made: GpuMemory | None = None
    seen: Sequence[tuple[object, ...]] = ()
    nodes: Sequence[Node] = ()


def _seen(nodes: Iterable[Node]) -> list[tuple[object, ...]]:
    """All that is read of nodes here."""
    return [
        (node.name, node.labels, _lasting(node))
        if _whole(node)
        else (node.name, _product(node), node.labels.get(names.GPU_MEMORY_LABEL))
        for node in nodes
    ]


def _allows(node: Node, pod: Pod) -> bool:
    """Whether a pod may go to a node, whatever befalls that just now."""
    return fit.selected(pod, node) and fit.untolerated(pod, replace(node, taints=_lasting(node))) is None


def _lasting(node: Node) -> tuple[Taint, ...]:
    return tuple(taint for taint in node.taints if not taint.key.startswith(_PASSING))


def _product(node: Node) -> str:
    return node.labels.get(names.GPU_PRODUCT_LABEL, "")


def _whole(node: Node) -> bool:
    """Whether it has whole GPUs, or has had until lately: while a device plugin starts again, none are allocatable."""
    return bool(node.capacity.get(names.GPU) or node.allocatable.get(names.GPU))


def _size(labels: Mapping[str, str]) -> int | None:
    """GB of one GPU by the node's labels: its memory rounded up, as the names of MIG profiles have it."""
    memory = labels.get(names.GPU_MEMORY_LABEL, "")
    if _LABEL.fullmatch(memory):
        return -(-int(memory) // MIB_PER_GB)
    return _catalogued(labels.get(names.GPU_PRODUCT_LABEL, ""))


@lru_cache(maxsize=1_000)
def _catalogued(product: str) -> int | None:
    """GB of one GPU by the name of the profile that takes all of it; None: not in the catalogue."""
    model = catalogue.lookup(product)
    if model is None:
        return None
    return resources.with_gpu_memory({names.mig_resource(model.largest.name): 1}, 0).get(names.GPU_MEMORY)


def _kept(pod: Pod) -> int | None:
    """What the pod was let in with, where its product was not known then."""
    found = _KEPT.search(pod.reservation) if pod.reservation else None
    return int(found.group(1)) if found is not None else None
