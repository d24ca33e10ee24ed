"""The best plan there is, by an integer program written apart from the planner: pods served by priority.

Knows what a scenario has: devices, cpu, memory, taints, node selectors, priorities; no groups, nothing of other pods.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from functools import cache

import highspy
from highspy._core import _Highs as Highs

from brain.model.mig import Placement, Profile
from brain.model.node import Node
from brain.model.pod import Pod
from brain.model.snapshot import Snapshot

Row = dict[int, float]
Counts = tuple[tuple[str, int], ...]


def best(world: Snapshot, seconds: float = 60.0) -> dict[int, int] | None:
    """Pods served by priority, the highest first; None where the solver does not prove it in time."""
    kinds: Counter[tuple[object, ...]] = Counter()
    samples: dict[tuple[object, ...], Pod] = {}
    for pod in world.pods:
        kind = (pod.priority, *sorted(pod.request.items()), *sorted(pod.node_selector.items()))
        kinds[kind] += 1
        samples[kind] = pod
    upper: list[int] = []
    rows: list[tuple[float, float, Row]] = []
    served: dict[tuple[object, ...], Row] = {kind: {} for kind in kinds}
    for node in world.nodes:
        here: dict[int, Pod] = {}
        for kind, pod in samples.items():
            if _suits(pod, node):
                served[kind][len(upper)] = 1
                here[len(upper)] = pod
                upper.append(kinds[kind])
        wanted = tuple(sorted({name for pod in here.values() for name in pod.mig_request}))
        supply: defaultdict[str, Row] = defaultdict(dict)
        for gpu in node.agent.gpus if node.agent is not None else ():
            fixed = frozenset(instance.placement for instance in gpu.instances if instance.fixed)
            chosen: Row = {}
            for counts in fillings(gpu.profiles, fixed, wanted):
                for name, count in counts:
                    supply[name][len(upper)] = count
                chosen[len(upper)] = 1
                upper.append(1)
            rows.append((-math.inf, 1, chosen))
        rows += [
            (0, math.inf, supply[name] | {column: -pod.mig_request.get(name, 0) for column, pod in here.items()})
            for name in wanted
        ]
        for name, scale in (("cpu", 1), ("memory", 1 << 20)):
            taken = {column: pod.request.get(name, 0) / scale for column, pod in here.items()}
            rows.append((-math.inf, node.allocatable[name] / scale, taken))
    rows += [(-math.inf, kinds[kind], row) for kind, row in served.items()]
    levels: defaultdict[int, Row] = defaultdict(dict)
    for kind, row in served.items():
        levels[samples[kind].priority] |= row
    return _one_after_the_other(upper, rows, dict(sorted(levels.items(), reverse=True)), seconds)


def _one_after_the_other(
    upper: list[int], rows: list[tuple[float, float, Row]], levels: dict[int, Row], seconds: float
) -> dict[int, int] | None:
    solver = Highs()
    for option, value in {"output_flag": False, "threads": 1, "mip_rel_gap": 0.0, "time_limit": seconds}.items():
        solver.setOptionValue(option, value)
    for column, most in enumerate(upper):
        solver.addVar(0, most)
        solver.changeColIntegrality(column, highspy.HighsVarType.kInteger)
    for lower, limit, row in rows:
        solver.addRow(lower, limit, len(row), list(row), list(row.values()))
    solver.changeObjectiveSense(highspy.ObjSense.kMaximize)
    found = {}
    for level, columns in levels.items():
        for column in range(len(upper)):
            solver.changeColCost(column, columns.get(column, 0))
        found[level] = 0
        if columns:
            solver.run()
            if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
                return None
            found[level] = round(solver.getInfo().objective_function_value)
            solver.addRow(found[level], math.inf, len(columns), list(columns), list(columns.values()))
    return found


def _suits(pod: Pod, node: Node) -> bool:
    shut = any(taint.effect in {"NoSchedule", "NoExecute"} for taint in node.taints)
    return not shut and all(node.labels.get(key) == value for key, value in pod.node_selector.items())


@cache
def fillings(profiles: tuple[Profile, ...], fixed: frozenset[Placement], wanted: tuple[str, ...]) -> list[Counts]:
    """What a GPU can give of some resources beside what stays: each multiset that is no part of another."""
    known = {profile.name: profile for profile in profiles}
    places = [(p, start) for p in profiles if p.resource in wanted for start in p.starts]
    found: set[Counts] = set()

    def slots(profile: Profile, start: int) -> int:
        return ((1 << profile.size) - 1) << start

    def walk(first: int, held: list[str], taken: int) -> None:
        new = Counter(known[name].resource for name in held[len(fixed) :])
        found.add(tuple(sorted(new.items())))
        for position, (profile, start) in enumerate(places[first:], first):
            full = held.count(profile.name) >= profile.max_count
            if not (full or taken & slots(profile, start) or _exclusive([*held, profile.name])):
                walk(position + 1, [*held, profile.name], taken | slots(profile, start))

    walk(0, [each.profile for each in fixed], sum(slots(known[each.profile], each.start) for each in fixed))
    counted = [Counter(dict(each)) for each in found]
    return [tuple(each.items()) for each in counted if not any(each < other for other in counted)]


def _exclusive(held: list[str]) -> bool:
    """Whether some of what a GPU holds claims media engines that another has."""
    if any(name.endswith("+me.all") for name in held):
        return sum(not name.endswith("-me") for name in held) > 1
    return sum(name.endswith("+me") for name in held) > 1
