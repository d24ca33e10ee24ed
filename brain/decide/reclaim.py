"""Whom to evict so that a pod finds room: the smallest set that makes its quota and a node fit, or nobody.

Among sets that work, in this order: fewest pods; lowest highest priority; least freed of what the pod lacks; newest,
those before them that came in past the gate; name. Pods of a group that are of no use without those that go are counted, and go, with them. Who may be evicted at all
is not decided here, nor what a node can hold.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import attrgetter
from typing import Final, Protocol

from brain.decide.ledger import Refusal
from brain.model.pod import Pod
from brain.model.quota import Quota
from brain.model.resources import Resources

MOST_TRIALS: Final = 4_000
"""Sets of pods that are tried on nodes for one pod; beyond that, sets from which no pod can be left out are taken."""
_MOST_SUMS: Final = 20_000
"""Steps of the search for ways to make up what a quota lacks, for one pod."""
_NEWEST: Final = attrgetter("newest")
_Bundles = Sequence[tuple["Victim", ...]]
"""Pods that go together or not at all; all bundles of one kind are of one size."""


@dataclass(frozen=True, slots=True)
class Victim:
    """A pod that may be evicted.

    Attributes:
        pod: the pod.
        request: what it asks for, as quotas count it.
        quota: the quota it counts in; None outside quotas.
        budgets: the disruption budgets that cover it.
        newest: sorts by :attr:`Pod.first_out`, then by key.
        kind: the same object for most of those that ask for the same and whose quotas' ``min`` name the same.
    """

    pod: Pod
    request: Resources
    quota: Quota | None = None
    budgets: tuple[str, ...] = ()
    newest: tuple[tuple[bool, int], str] = field(init=False, compare=False, repr=False)
    kind: object = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        named = frozenset(self.quota.min) if self.quota is not None else frozenset[str]()
        object.__setattr__(self, "newest", (self.pod.first_out, self.pod.key))
        object.__setattr__(self, "kind", _kind(tuple(sorted(self.request.items())), named))


@lru_cache(maxsize=4_096)
def _kind(_asks: tuple[tuple[str, int], ...], _named: frozenset[str]) -> object:
    return object()


@dataclass(frozen=True, slots=True)
class Reclaim:
    """What makes room for a pod.

    Attributes:
        node: where it will fit; empty where nodes play no part.
        victims: who must go, by key; empty where it fits once those have gone that are on their way out.
    """

    node: str
    victims: tuple[Victim, ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """Pods of a group that are of use only together.

    Attributes:
        victims: all of them that have a node and are not on their way out.
        spare: how many of them may go before the others are of no use, and go too.
    """

    victims: Sequence[Victim]
    spare: int


class Sites(Protocol):
    """Where a pod may fit."""

    def nodes(self) -> Iterable[str]:
        """Nodes that suit the pod, by name."""

    def fits(self, node: str, without: Sequence[Victim]) -> bool:
        """Whether the pod fits on a node once some of its pods have gone."""

    def groups(self, node: str, victims: Sequence[Victim]) -> Iterable[Sequence[Victim]]:
        """Sets of a node's pods within one of which each smallest set lies that lets the pod fit."""

    def lacks(self, node: str) -> Collection[str]:
        """Resources of which the node has too little for the pod as it is."""


@dataclass(frozen=True, slots=True)
class Case:
    """One pod that room is wanted for.

    Attributes:
        quota: its quota; None outside quotas.
        refusals: what its quota lacks.
        victims: who may be evicted for it.
        sites: where it may fit.
        allowed: how many pods each disruption budget lets go; those that cover no victim may be left out.
        units: by group, pods that go together; some of them may be no victims by themselves.
    """

    quota: Quota | None
    refusals: Sequence[Refusal]
    victims: Sequence[Victim]
    sites: Sites
    allowed: Mapping[str, int] = field(default_factory=dict)
    units: Mapping[str, Unit] = field(default_factory=dict)


def cheapest(case: Case) -> Reclaim | None:
    """The best set of victims with the node that it makes fit; None when none works."""
    return _Search(case).run()


class _Search:
    """The search for one pod."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._sites = case.sites
        whole = {group: tuple(sorted(unit.victims, key=_NEWEST)) for group, unit in case.units.items()}
        self._whole = {group: each for group, each in whole.items() if all(map(self._may_go, each))}
        able = [v for v in case.victims if not v.budgets or self._may_go(v)]
        self._alone = sorted(filter(self._spare, able) if case.units else able, key=_NEWEST)
        # With their group those go, too, that may not go by themselves.
        beside = {v.pod.key: v for each in self._whole.values() for v in each}
        for v in self._alone:
            beside.pop(v.pod.key, None)
        self._beside = beside.keys()
        self._victims = sorted([*self._alone, *beside.values()], key=_NEWEST) if beside else self._alone
        self._short = tuple(refusal.short for refusal in case.refusals)
        self._lacking = [(refusal.resource, refusal.rule == "max") for refusal in case.refusals]
        self._nothing = tuple(0 for _ in case.refusals)
        self._levels = sorted({v.pod.priority for v in self._victims})
        self._sorts: defaultdict[object, list[Victim]] = defaultdict(list)
        self._trials = 0
        self._sums_left = _MOST_SUMS
        self._known: dict[tuple[frozenset[str], int], Sequence[Sequence[Victim]]] = {}
        self._all_kinds = 0

    def run(self) -> Reclaim | None:
        if not self._would_do():
            return None
        best: tuple[tuple[object, ...], Reclaim] | None = None
        for node, needed in self._standing():
            chosen = self._closed(needed)
            if chosen is None:
                continue
            most = len(self._victims) if best is None else len(best[1].victims)
            for victims in self._completed(node, chosen, most):
                key = (len(victims), *self._cost(victims, node))
                if best is None or key < best[0]:
                    best = key, Reclaim(node, tuple(sorted(victims, key=lambda v: v.pod.key)))
        return best[1] if best is not None else None

    def _would_do(self) -> bool:
        """Whether the quota would let the pod pass if all went."""
        short = self._short
        if any(short):
            beside = [[v] for v in self._victims if v.pod.key in self._beside] if self._beside else []
            for alike in (*self._alike(), *beside):
                gives = self._gives(alike[0])
                short = tuple(lack - len(alike) * each for lack, each in zip(short, gives, strict=True))
        return all(lack <= 0 for lack in short)

    def _standing(self) -> Iterator[tuple[str, tuple[Victim, ...]]]:
        """Nodes with the sets of their pods without which the pod fits there, and from which none can be left out."""
        nodes = list(self._sites.nodes())
        for node in nodes:
            if self._sites.fits(node, ()):
                yield node, ()
                return
        on: defaultdict[str, list[Victim]] = defaultdict(list)
        for victim in self._victims:
            if victim.pod.node:
                on[victim.pod.node].append(victim)
        for node in nodes:
            if node in on and self._sites.fits(node, on[node]):
                for group in self._sites.groups(node, on[node]):
                    for chosen in self._smallest(node, group):
                        yield node, chosen

    def _smallest(self, node: str, victims: Sequence[Victim]) -> Iterator[tuple[Victim, ...]]:
        found: list[frozenset[str]] = []
        for size in range(1, len(victims) + 1):
            for chosen in itertools.combinations(victims, size):
                keys = frozenset(v.pod.key for v in chosen)
                if any(known <= keys for known in found) or not self._lets_go(chosen):
                    continue
                if self._trials >= MOST_TRIALS:
                    yield from self._one_smallest(node, victims)
                    return
                self._trials += 1
                if self._sites.fits(node, chosen):
                    found.append(keys)
                    yield chosen

    def _one_smallest(self, node: str, victims: Sequence[Victim]) -> Iterator[tuple[Victim, ...]]:
        """One set, found by leaving out one pod after the other, those that are worth most first."""
        chosen = list(victims)
        if not self._sites.fits(node, chosen):
            return
        for victim in sorted(victims, key=lambda v: (-v.pod.priority, v.pod.created, v.pod.key)):
            less = [v for v in chosen if v is not victim]
            if self._sites.fits(node, less):
                chosen = less
        if self._lets_go(chosen):
            yield tuple(chosen)

    def _completed(self, node: str, chosen: tuple[Victim, ...], most: int) -> Iterator[tuple[Victim, ...]]:
        """A set with the best of the smallest sets that add what the quota still lacks; at most so many in all."""
        short = self._still(self._short, chosen)
        if not any(short):
            if len(chosen) <= most:
                yield chosen
            return
        taken = {v.pod.key for v in chosen}
        lowest = max((v.pod.priority for v in chosen), default=None)
        lacked = frozenset(self._lacked(node))
        levels = [level for level in self._levels if lowest is None or level >= lowest]
        kinds = {level: self._kinds(lacked, level) for level in levels}
        for size in range(1, most - len(chosen) + 1):
            enough = False
            for level in levels:
                bundles: list[_Bundles] = [
                    [(v,) for v in each[: size + len(taken)] if v.pod.key not in taken] for each in kinds[level]
                ]
                for whole in self._whole.values():
                    rest = tuple(v for v in whole if v.pod.key not in taken)
                    if rest and max(v.pod.priority for v in rest) <= level:
                        bundles.append([rest])
                if not self._reaches(bundles, size, short):
                    continue
                enough = True
                sets = [(*chosen, *added) for added in self._sums(bundles, size, short)]
                sets = [each for each in sets if self._lets_go(each) and self._whole_groups(each)]
                if sets:
                    yield from sets
                    return
            if self._sums_left <= 0 or (not enough and size >= self._all_kinds):
                return

    def _kinds(self, lacked: frozenset[str], level: int) -> Sequence[Sequence[Victim]]:
        """Pods of a priority at most that give something, by what they give and free; of each kind the newest first."""
        known = self._known.get((lacked, level))
        if known is None:
            found: defaultdict[object, list[Victim]] = defaultdict(list)
            for alike in self._alike():
                v = alike[0]
                gives = self._gives(v)
                if v.pod.priority <= level and any(gives):
                    group = v.pod.group if v.pod.group in self._case.units else ""
                    found[gives, sum(v.request.get(name, 0) for name in lacked), v.budgets, group] += alike
            for members in found.values():
                members.sort(key=_NEWEST)
            known = self._known[lacked, level] = list(found.values())
            self._all_kinds = max(self._all_kinds, sum(map(len, known)) + len(self._beside))
        return known

    def _alike(self) -> Iterable[Sequence[Victim]]:
        """Pods that give and free the same, whatever is lacked, and have the same priority; the newest first."""
        if not self._sorts:
            own = self._case.quota
            units = self._case.units
            for v in self._alone:
                group = v.pod.group if v.pod.group in units else ""
                self._sorts[v.kind, v.quota is own, v.pod.priority, v.budgets, group].append(v)
        return self._sorts.values()

    def _closed(self, chosen: tuple[Victim, ...]) -> tuple[Victim, ...] | None:
        """A set with all of each group that is of no use without those; None where these may not go."""
        if not self._case.units:
            return chosen
        found = {v.pod.key: v for v in chosen}
        of = Counter(v.pod.group for v in chosen if v.pod.group in self._case.units)
        for group, count in of.items():
            alone = all(v.pod.key not in self._beside for v in chosen if v.pod.group == group)
            if alone and count <= self._case.units[group].spare:
                continue
            if group not in self._whole:
                return None
            found |= {v.pod.key: v for v in self._whole[group]}
        closed = tuple(found.values())
        return closed if self._lets_go(closed) else None

    def _whole_groups(self, chosen: tuple[Victim, ...]) -> bool:
        """Whether nobody is left behind, or there twice, of the groups in a set."""
        if not self._case.units:
            return True
        closed = self._closed(chosen)
        return closed is not None and len(closed) == len(chosen)

    def _spare(self, victim: Victim) -> bool:
        """Whether a pod may go without the others of its group."""
        unit = self._case.units.get(victim.pod.group)
        return unit is None or unit.spare > 0

    def _reaches(self, kinds: Sequence[_Bundles], size: int, short: tuple[int, ...]) -> bool:
        """Whether so many pods can give what is short at all, resource by resource."""
        given = [(self._most(each[0]), sum(map(len, each))) for each in kinds if each]
        for position, lack in enumerate(short):
            left, reached = size, 0
            for gives, count in sorted(given, key=lambda entry: -entry[0][position]):
                reached += gives[position] * min(left, count)
                left -= min(left, count)
                if not left:
                    break
            if reached < lack:
                return False
        return True

    def _most(self, bundle: Sequence[Victim]) -> tuple[int, ...]:
        """The most that one pod of some gives."""
        return tuple(max(each) for each in zip(*map(self._gives, bundle), strict=True))

    def _sums(self, kinds: Sequence[_Bundles], size: int, short: tuple[int, ...]) -> Iterator[tuple[Victim, ...]]:
        """Sets of a size, each kind's newest first, that together give what is short."""
        # What one pod of the kinds from a position on can give at most.
        most = [short] * (len(kinds) + 1)
        most[-1] = tuple(0 for _ in short)
        for at in range(len(kinds) - 1, -1, -1):
            gives = self._most(kinds[at][0]) if kinds[at] else most[-1]
            most[at] = tuple(map(max, gives, most[at + 1]))

        def walk(
            at: int, size: int, short: tuple[int, ...], chosen: tuple[Victim, ...]
        ) -> Iterator[tuple[Victim, ...]]:
            if not size:
                if not any(short):
                    yield chosen
                return
            self._sums_left -= 1
            if (
                self._sums_left < 0
                or at == len(kinds)
                or any(lack > size * each for lack, each in zip(short, most[at], strict=True))
            ):
                return
            bundles = kinds[at]
            for count in range(min(size // len(bundles[0]), len(bundles)) if bundles else 0, -1, -1):
                added = tuple(itertools.chain.from_iterable(bundles[:count]))
                yield from walk(at + 1, size - len(added), self._still(short, added), (*chosen, *added))

        yield from walk(0, size, short, ())

    def _may_go(self, victim: Victim) -> bool:
        """Whether disruption budgets let a pod go; the Eviction API refuses those that several cover."""
        budgets = victim.budgets
        return not budgets or (len(budgets) == 1 and self._case.allowed.get(budgets[0], 1) > 0)

    def _gives(self, victim: Victim) -> tuple[int, ...]:
        """What of each shortage of the quota a pod's end makes up."""
        if victim.quota is None:
            return self._nothing
        asked, least, own = victim.request, victim.quota.min, victim.quota is self._case.quota
        return tuple(asked.get(name, 0) if (own if by_max else name in least) else 0 for name, by_max in self._lacking)

    def _still(self, short: tuple[int, ...], victims: Sequence[Victim]) -> tuple[int, ...]:
        """What of a shortage is left once some have gone."""
        for victim in victims:
            short = tuple(max(0, lack - given) for lack, given in zip(short, self._gives(victim), strict=True))
        return short

    def _lets_go(self, victims: Sequence[Victim]) -> bool:
        """Whether the disruption budgets let all of them go."""
        if not self._case.allowed:
            return True
        taken = Counter(budget for victim in victims for budget in victim.budgets)
        return all(count <= self._case.allowed.get(budget, count) for budget, count in taken.items())

    def _lacked(self, node: str) -> set[str]:
        """What the pod lacks in its quota or on a node."""
        return {refusal.resource for refusal in self._case.refusals}.union(self._sites.lacks(node))

    def _cost(self, victims: Sequence[Victim], node: str) -> tuple[object, ...]:
        lacked = self._lacked(node)
        return (
            max((v.pod.priority for v in victims), default=0),
            sum(v.request.get(name, 0) for v in victims for name in lacked),
            sorted(v.pod.first_out for v in victims),
            sorted(v.pod.key for v in victims),
            node,
        )
