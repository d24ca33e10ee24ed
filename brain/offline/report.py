"""A plan for programs, as JSON, and for people, as a drawing of the slots and a table of pods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from brain.decide.partition import Plan
from brain.model.mig import Geometry, Gpu
from brain.model.snapshot import Snapshot
from brain.offline import drawing
from brain.offline.drawing import Piece
from n8s import names


def document(name: str, plan: Plan) -> dict[str, Any]:
    """A plan as a JSON document; geometries of changed GPUs only, whole, with what is in use."""
    return {
        "name": name,
        "placed": len(plan.assigned),
        "bound": plan.bound,
        "assignments": dict(sorted(plan.assigned.items())),
        "geometries": {
            node: {
                str(index): [{"profile": placement.profile, "start": placement.start} for placement in geometry]
                for index, geometry in sorted(gpus.items())
            }
            for node, gpus in sorted(plan.geometries.items())
        },
        "unplaced": dict(sorted(plan.unplaced.items())),
    }


def page(name: str, snapshot: Snapshot, plan: Plan) -> Group:
    """A plan to look at: what each GPU is to hold, where each pod goes, and why some have no room."""
    changed = sum(map(len, plan.geometries.values()))
    placed = f"{len(plan.assigned)} of {len(plan.assigned) + len(plan.unplaced)} pods find room"
    limit = "no plan places more" if plan.bound == len(plan.assigned) else f"at most {plan.bound} could"
    gated = sum(1 for pod in snapshot.pods if pod.gated and pod.mig_request)
    behind = f"; {gated} more behind scheduling gates, not planned for" if gated else ""
    heading = Text(f"{name}: {placed} ({limit}); {changed} GPUs change{behind}", "bold")
    pods = [_pods(snapshot, plan)] if plan.assigned or plan.unplaced else []
    return Group(heading, _drawing(snapshot, plan), *pods)


def _drawing(snapshot: Snapshot, plan: Plan) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for node in sorted(snapshot.nodes, key=lambda node: node.name):
        wanted = plan.geometries.get(node.name, {})
        for gpu in node.agent.gpus if node.agent is not None else ():
            mark = "*" if gpu.index in wanted else " "
            label = f"{node.name} GPU {gpu.index}{mark} {gpu.model.removeprefix('NVIDIA-')}"
            table.add_row(label, drawing.bar(gpu.slots, _pieces(gpu, wanted.get(gpu.index, gpu.geometry))))
    legend = Text.assemble(
        ("#in use ", drawing.USED), " ", (" free ", drawing.FREE), " ", ("+new ", drawing.NEW), " · empty slot"
    )
    table.add_row("* changes", legend)
    return table


def _pieces(gpu: Gpu, geometry: Geometry) -> Iterator[Piece]:
    sizes = {profile.name: profile.size for profile in gpu.profiles}
    fixed = {instance.placement for instance in gpu.instances if instance.fixed}
    for placement in geometry:
        mark, style = "+", drawing.NEW
        if placement in fixed:
            mark, style = "#", drawing.USED
        elif placement in gpu.geometry:
            mark, style = " ", drawing.FREE
        yield Piece(placement.start, sizes[placement.profile], mark + placement.profile, style)


def _pods(snapshot: Snapshot, plan: Plan) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("pod", "wants", "node", "why not"):
        table.add_column(column, overflow="fold")
    wanted = {pod.key: _wanted(pod.mig_request) for pod in snapshot.pods}
    for key, node in sorted(plan.assigned.items()):
        table.add_row(key, wanted[key], node, "")
    for key, reason in sorted(plan.unplaced.items()):
        table.add_row(key, wanted[key], Text("none", "yellow"), reason)
    return table


def _wanted(request: Mapping[str, int]) -> str:
    parts: Sequence[str] = [f"{count} {name.removeprefix(names.MIG_PREFIX)}" for name, count in sorted(request.items())]
    return ", ".join(parts)
