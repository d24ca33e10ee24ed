"""Whom to evict so that a pod finds room: the smallest set that makes its quota and a node fit, or nobody.

Among sets that work, in this order: fewest pods; lowest highest priority; least freed of what the pod lacks; newest,
those before them that came in past the gate; name. Pods of a group that are of no use without those that go are
counted, and go, with them. Who may be evicted at all is not decided here, nor what a node can hold.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from operator import attrgetter, or_
from typing import Final, NamedTuple, Protocol

from brain.decide.combine import Amounts, Option, Steps, TooManyError, useful
from brain.decide.combine import cheapest as combined
from brain.decide.ledger import Refusal
from brain.model import resources
from brain.model.pod import Pod
from brain.model.quota import Quota
from brain.model.resources import Resources

MOST_STEPS: Final = 120_000
"""Steps of the searches of one round, a few microseconds each; each pod's may take a part of what those before left."""
SHARE: Final = 4
"""Which part: a quarter. The same for each node of one search."""
_MOST_ELSEWHERE: Final = 50
"""Kinds of pods on other nodes that are looked at where the best takes too long, those that give the most."""
_MOST_TOGETHER: Final = 10
"""Pods on one GPU, or on several that they link, of which all sets are looked at where the best takes too long."""
_NEWEST: Final = attrgetter("newest")


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
    newest: tuple[int, str] = field(init=False, compare=False, repr=False)
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


class Device(Protocol):
    """A GPU that may give a pod instances."""

    @property
    def held(self) -> Mapping[str, int]:
        """What each pod holds, by key, as a set."""

    def loads(self, gone: int) -> Sequence[Amounts]:
        """What it can give once some of what is held comes free: instances by profile, none less than another."""

    def ways(self, held: Sequence[int]) -> Sequence[tuple[Sequence[int], Amounts]]:
        """What it can give if some go of those who hold so much: who, by position, and what; nobody goes in vain."""

    def fewest(self, keys: Iterable[str]) -> Sequence[int]:
        """By how many instances it is to give, of how many of some pods it must be rid at least."""


class Sites(Protocol):
    """Where a pod may fit."""

    def nodes(self) -> Iterable[str]:
        """Nodes that suit the pod, by name."""

    def fits(self, node: str, without: Sequence[Victim]) -> bool:
        """Whether the pod fits on a node once some of its pods have gone."""

    def short(self, node: str) -> Mapping[str, int]:
        """How much must come free on a node of what it has too little of, instances on its GPUs aside."""

    def devices(self, node: str) -> tuple[Amounts, Sequence[Device]]:
        """How many instances of each profile the pod wants of a node's GPUs, and these; nothing where it wants none."""

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


def cheapest(case: Case, steps: Steps | None = None, *, guarded: bool = True) -> Reclaim | None:
    """The best set of victims with the node that it makes fit; None when none works.

    Args:
        case: the pod.
        steps: what may be done for this pod and others after it; it may take a part of that. Once its part is used up,
            a set is taken that those were put into first that give the most, and from which no pod can be left out.
        guarded: whether disruption budgets hold.
    """
    return _Search(case, steps or Steps(SHARE * MOST_STEPS), guarded=guarded).run()


class _Bundle(NamedTuple):
    """Pods that go together or not at all, and the limits that they count against, as often as they do."""

    victims: tuple[Victim, ...]
    limits: tuple[str, ...]


@dataclass(slots=True, eq=False)
class _Spot:
    """A node on which the pod may fit once others have gone.

    Attributes:
        node: its name.
        short: what must come free: of the node's resources, by the quota's rules, and instances of its GPUs.
        names: the node's resources of these.
        lacked: what the pod lacks in its quota or there.
        local: who may go there by themselves, those first that free the least of that, then the newest.
        whole: groups that may go as a whole and have pods there.
        devices: the GPUs that may give instances.
        least: fewer pods than that give too little.
        spent: whether the best set was not found in so many steps.
        rough: some set that works, then.
        amounts: what pods give that are alike, as far as that is known.
    """

    node: str
    short: Amounts
    names: tuple[str, ...]
    lacked: frozenset[str]
    local: Sequence[Victim]
    whole: Sequence[str]
    devices: Sequence[Device]
    least: int
    spent: bool = False
    rough: Option | None = None
    amounts: dict[object, Amounts] = field(default_factory=dict)


class _Search:
    """The search for one pod: by the number of pods, for each over all nodes."""

    def __init__(self, case: Case, steps: Steps, *, guarded: bool) -> None:
        self._case = case
        self._sites = case.sites
        self._guarded = guarded
        self._round = steps
        self._steps = Steps(steps.left // SHARE)
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
        self._levels = sorted({v.pod.priority for v in self._victims}) or [0]
        self._limits = dict(case.allowed) if guarded else {}
        self._limits |= {_limit(group): unit.spare for group, unit in case.units.items() if unit.spare}
        self._sorts: defaultdict[object, list[Victim]] = defaultdict(list)
        self._of_key: dict[str, Victim] = {}
        self._any = False
        self._known: dict[object, Sequence[tuple[Amounts, tuple[str, ...], Sequence[Victim]]]] = {}

    def run(self) -> Reclaim | None:
        if not self._would_do():
            return None
        found = None
        least, most = self._for_quota()
        spots = self._spots(least)
        size = min([spot.least for spot in spots], default=0)
        most += max(
            [len(spot.local) + sum(len(self._whole[group]) for group in spot.whole) for spot in spots], default=0
        )
        while spots and found is None and size <= most:
            found = self._of_size(size, [spot for spot in spots if spot.least <= size])
            spots = [spot for spot in spots if not spot.spent or spot.rough is not None]
            size += 1
        self._round.left -= self._round.left // SHARE - self._steps.left
        if found is None:
            return None
        return Reclaim(found[0].node, tuple(sorted(self._of(found[1]), key=lambda v: v.newest[1])))

    def _would_do(self) -> bool:
        """Whether the quota would let the pod pass if all went."""
        short = self._short
        if any(short):
            beside = [[v] for v in self._victims if v.newest[1] in self._beside] if self._beside else []
            for alike in (*self._alike(), *beside):
                gives = self._gives(alike[0])
                short = tuple(lack - len(alike) * each for lack, each in zip(short, gives, strict=True))
        return all(lack <= 0 for lack in short)

    # Nodes.

    def _spots(self, least: int) -> list[_Spot]:
        """The nodes that may do; one alone where the pod fits though nobody goes there."""
        nodes = list(self._sites.nodes())
        node = next((node for node in nodes if self._sites.fits(node, ())), None)
        if node is not None:
            return [self._spot(node, (), least)]
        on: defaultdict[str, list[Victim]] = defaultdict(list)
        for victim in self._victims:
            if victim.pod.node:
                on[victim.pod.node].append(victim)
        return [self._spot(node, on[node], least) for node in nodes if node in on and self._sites.fits(node, on[node])]

    def _spot(self, node: str, there: Sequence[Victim], least: int) -> _Spot:
        """A node; none of ``there`` where the pod fits as it is."""
        amounts = self._sites.short(node) if there else {}
        needs, devices = self._sites.devices(node) if there else ((), ())
        lacked = {refusal.resource for refusal in self._case.refusals}.union(self._sites.lacks(node))
        names, short = tuple(amounts), (*amounts.values(), *self._short, *needs)
        local = [v for v in there if v.newest[1] not in self._beside]
        local.sort(key=lambda v: (_frees(v, lacked), v.newest))
        whole = sorted({v.pod.group for v in there if v.pod.group in self._whole}) if self._whole else []
        for name, lack in amounts.items():
            least = max(least, _fewest([(_amount(v, name), 1) for v in there], lack))
        if needs:
            least = max(least, _fewest_for_devices(devices, [v.newest[1] for v in there], sum(needs)))
        self._steps.left -= len(there)
        return _Spot(node, short, names, frozenset(lacked), local, whole, devices, least)

    def _of_size(self, size: int, spots: Sequence[_Spot]) -> tuple[_Spot, Option] | None:
        """The best set of so many pods, with its node."""
        best: tuple[tuple[object, ...], _Spot, Option] | None = None
        bounds = [(self._bound(spot, size), spot) for spot in spots]
        bounds.sort(key=lambda bound: bound[0])
        for bound, spot in bounds:
            if best is not None and (self._steps.left <= 0 or bound >= best[0]):
                break
            level = best[2].priority if best is not None else self._levels[-1]
            while True:
                found = self._chosen(spot, size, level, rough=best is None)
                if found is None:
                    break
                key = len(found.pods), found.priority, *found.cost, spot.node
                if best is None or key < best[0]:
                    best = key, spot, found
                lower = [each for each in self._levels if each < found.priority]
                if spot.spent or not lower:
                    break
                level = lower[-1]
        return best[1:] if best is not None else None

    def _bound(self, spot: _Spot, size: int) -> tuple[object, ...]:
        """What no set of so many pods there sorts before; a guess where pods elsewhere or whole groups may go."""
        first = spot.local[:size]
        exact = not (any(self._short) or spot.whole)
        lowest = min([v.pod.priority for v in spot.local], default=0) if exact else self._levels[0]
        freed = sum(_frees(v, spot.lacked) for v in first) if exact else -1
        return size, lowest, freed, sorted(v.pod.first_out for v in first), sorted(v.newest[1] for v in first)

    def _chosen(self, spot: _Spot, size: int, level: int, *, rough: bool) -> Option | None:
        """The best set of so many pods of a priority at most; ``rough``: some set where that takes too many steps."""
        if not spot.spent:
            steps = Steps(max(0, self._steps.left) // SHARE)
            before = steps.left
            try:
                limits, parts = self._parts(spot, size, level, steps)
                found = combined(parts, spot.short, limits, size, steps)
                if found is None or self._works(spot, self._of(found)):
                    return found
            except TooManyError:
                pass
            finally:
                self._steps.left -= before - steps.left
            if not rough:
                return None
            spot.spent = True
            if self._steps.left > -MOST_STEPS // SHARE or not self._any:
                spot.rough = self._rough(spot)
                self._any |= spot.rough is not None
        return spot.rough if spot.rough is not None and len(spot.rough.pods) <= size else None

    def _of(self, option: Option) -> list[Victim]:
        return [self._of_key[pod.key] for pod in option.pods]

    def _works(self, spot: _Spot, victims: Sequence[Victim]) -> bool:
        if not (self._passes(victims) and self._lets_go(victims) and self._whole_groups(victims)):
            return False
        return self._sites.fits(spot.node, victims)

    # What may go.

    def _parts(
        self, spot: _Spot, size: int, level: int, steps: Steps, *, rough: bool = False
    ) -> tuple[Amounts, list[list[Option]]]:
        """Limits that so many pods may reach, and what may go, in parts that have nothing to do with each other.

        A part is a GPU, or several that a pod has instances of, with all pods there; or pods or groups that are alike.
        """
        tight = frozenset(name for name, most in self._limits.items() if most < size)
        bundles = [_Bundle((v,), self._counted(v, tight)) for v in spot.local if v.pod.priority <= level]
        bundles += self._groups(spot.whole, size, level, tight)
        shares: list[tuple[list[Device], list[_Bundle]]] = [([device], []) for device in spot.devices]
        alike: defaultdict[object, list[_Bundle]] = defaultdict(list)
        for bundle in bundles:
            keys = [v.newest[1] for v in bundle.victims]
            mine = [share for share in shares if any(key in device.held for device in share[0] for key in keys)]
            if not mine:
                alike[self._amounts(spot, bundle), bundle.limits, len(bundle.victims)].append(bundle)
                continue
            mine[0][1].append(bundle)
            for share in mine[1:]:
                mine[0][0].extend(share[0])
                mine[0][1].extend(share[1])
                shares.remove(share)
        kinds = [kind if len(kind[0].victims) == 1 else self._sorted(spot, kind) for kind in alike.values()]
        if any(self._short):
            steps.take(len(self._kinds(spot.lacked, level, tight)))
            others = self._elsewhere(spot, size, level, tight)
            if rough:
                others.sort(key=lambda kind: -self._worth(spot, self._amounts(spot, kind[0])))
                others = others[:_MOST_ELSEWHERE]
            kinds += others
        held = [bundle for _, each in shares for bundle in each]
        names = sorted({name for bundle in (*held, *(kind[0] for kind in kinds)) for name in bundle.limits})
        limits = tuple(self._limits[name] for name in names)
        parts = [self._of_devices(spot, share, names, size, steps, rough=rough) for share in shares]
        parts += [self._of_alike(spot, kind, names, size) for kind in kinds]
        return limits, [part for part in parts if len(part) > 1 or any(part[0].gives)]

    def _option(self, spot: _Spot, bundle: _Bundle, names: Sequence[str]) -> Option:
        self._of_key.update((v.newest[1], v) for v in bundle.victims)
        pods = tuple([v.pod for v in bundle.victims])
        takes = tuple(map(bundle.limits.count, names)) if names else ()
        return Option(pods, self._amounts(spot, bundle), takes, sum(_frees(v, spot.lacked) for v in bundle.victims))

    def _of_alike(self, spot: _Spot, kind: Sequence[_Bundle], names: Sequence[str], size: int) -> list[Option]:
        """The first few of some that are alike."""
        chosen = self._option(spot, _Bundle((), ()), names)
        found = [chosen]
        for bundle in kind[: size // len(kind[0].victims)]:
            one = self._option(spot, bundle, names)
            if all(have >= lack for have, lack, each in zip(chosen.gives, spot.short, one.gives, strict=True) if each):
                break
            chosen = chosen.beside(one)
            found.append(chosen)
        return found

    def _of_devices(
        self,
        spot: _Spot,
        share: tuple[Sequence[Device], Sequence[_Bundle]],
        names: Sequence[str],
        size: int,
        steps: Steps,
        *,
        rough: bool,
    ) -> list[Option]:
        """What comes of it if some of those go that hold some of a few GPUs."""
        devices, bundles = share
        each = [self._option(spot, bundle, names) for bundle in bundles]
        nothing = self._option(spot, _Bundle((), ()), names)
        base = len(spot.short) - len(devices[0].loads(0)[0])
        if len(devices) == 1 and not any(any(option.gives) or any(option.takes) for option in each):
            ways = devices[0].ways([_union(devices[0], bundle.victims) for bundle in bundles])
            steps.take(len(ways))
            found = [(reduce(Option.beside, [each[at] for at in chosen], nothing), load) for chosen, load in ways]
        else:
            found = []
            held = [tuple(_union(device, bundle.victims) for device in devices) for bundle in bundles]
            if rough and len(bundles) > _MOST_TOGETHER:
                # All of them, or none.
                each, held = (
                    [reduce(Option.beside, each)],
                    [tuple(reduce(or_, column) for column in zip(*held, strict=True))],
                )
            sets: list[tuple[int, Option, tuple[int, ...]]] = [(0, nothing, (0,) * len(devices))]
            while sets:
                steps.take(sum([1 + len(held) - first for first, _, _ in sets]))
                found += [(option, load) for _, option, gone in sets for load in _loads(devices, gone)]
                sets = [
                    (at + 1, option.beside(each[at]), tuple(map(int.__or__, gone, holds)))
                    for first, option, gone in sets
                    for at, holds in enumerate(held[first:], first)
                    if len(option.pods) + len(each[at].pods) <= size
                ]
        options = [
            option._replace(gives=tuple(map(min, (*option.gives[:base], *load), spot.short)))
            for option, load in found
            if len(option.pods) <= size
        ]
        options.sort(key=lambda option: len(option.pods))
        return useful(options, steps)

    def _groups(self, groups: Iterable[str], size: int, level: int, tight: Collection[str]) -> list[_Bundle]:
        """Those of some groups that may go as a whole."""
        found = []
        for group in groups:
            members, name = self._whole[group], _limit(group)
            if len(members) <= size and max(v.pod.priority for v in members) <= level:
                budgets = [budget for v in members for budget in v.budgets if budget in tight]
                # None of them goes alone besides.
                alone = [name] * self._case.units[group].spare if name in tight else []
                found.append(_Bundle(members, tuple(sorted([*budgets, *alone]))))
        return found

    def _elsewhere(self, spot: _Spot, size: int, level: int, tight: frozenset[str]) -> list[list[_Bundle]]:
        """Who gives something to the quota from other nodes, by what; of each kind those first that cost the least."""
        here = {v.newest[1] for v in spot.local}
        least = len(spot.names)
        found: defaultdict[Amounts, list[list[_Bundle]]] = defaultdict(list)
        for gives, limits, victims in self._kinds(spot.lacked, level, tight):
            first = itertools.islice((v for v in victims if v.newest[1] not in here), size)
            kind = [_Bundle((v,), limits) for v in first]
            if kind:
                found[gives].append(kind)
        kinds = []
        for same in found.values():
            # So many pods count against two limits each, at most: of more kinds, some have what these have not reached.
            if len(same) > 2 * size:
                same.sort(key=lambda kind: self._option(spot, kind[0], ()).cost)
            kinds += same[: 2 * size]
        others = defaultdict(list)
        for bundle in self._groups([group for group in self._whole if group not in spot.whole], size, level, tight):
            amounts = self._amounts(spot, bundle)
            if any(amounts[least:]):
                others[amounts, bundle.limits, len(bundle.victims)].append(bundle)
        return kinds + [self._sorted(spot, kind) for kind in others.values()]

    def _kinds(
        self, lacked: frozenset[str], level: int, tight: frozenset[str]
    ) -> Sequence[tuple[Amounts, tuple[str, ...], Sequence[Victim]]]:
        """Pods of a priority at most that give something to the quota, by what, and by limits; the cheapest first."""
        known = self._known.get((lacked, level, tight))
        if known is None:
            found: defaultdict[tuple[Amounts, tuple[str, ...]], defaultdict[int, list[Victim]]]
            found = defaultdict(lambda: defaultdict(list))
            for alike in self._alike():
                v = alike[0]
                gives = tuple(map(min, self._gives(v), self._short))
                if v.pod.priority <= level and any(gives):
                    found[gives, self._counted(v, tight)][_frees(v, lacked)] += alike
            known = self._known[lacked, level, tight] = [
                (gives, limits, [v for freed in sorted(kinds) for v in sorted(kinds[freed], key=_NEWEST)])
                for (gives, limits), kinds in found.items()
            ]
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

    def _amounts(self, spot: _Spot, bundle: _Bundle) -> Amounts:
        """What some give of all that is short, no more than that; instances, which no pod gives alone, left out."""
        if len(bundle.victims) == 1:
            (v,) = bundle.victims
            key = v.kind, v.quota is self._case.quota, v.pod.node == spot.node
            known = spot.amounts.get(key)
            if known is not None:
                return known
        given = [sum(_amount(v, name) for v in bundle.victims if v.pod.node == spot.node) for name in spot.names]
        given += map(sum, zip(self._nothing, *map(self._gives, bundle.victims), strict=True))
        found = tuple(map(min, spot.short, (*given, *[0] * (len(spot.short) - len(given)))))
        if len(bundle.victims) == 1:
            spot.amounts[key] = found
        return found

    def _sorted(self, spot: _Spot, kind: Iterable[_Bundle]) -> list[_Bundle]:
        return sorted(kind, key=lambda each: self._option(spot, each, ()).cost)

    def _counted(self, victim: Victim, tight: Collection[str]) -> tuple[str, ...]:
        """Of some limits those that a pod counts against if it goes by itself."""
        if not tight:
            return ()
        return tuple(name for name in (*victim.budgets, _limit(victim.pod.group)) if name in tight)

    # Where the best takes too long.

    def _rough(self, spot: _Spot) -> Option | None:
        """Some set that works: first what gives the most for each pod, then without those that can be left out."""
        most = len(self._victims)
        limits, parts = self._parts(spot, most, self._levels[-1], Steps(1 << 60), rough=True)
        chosen = [part[0] for part in parts]
        have = [sum(column) for column in zip(*(option.gives for option in chosen), strict=True)] or [0] * len(
            spot.short
        )
        while any(given < lack for given, lack in zip(have, spot.short, strict=True)):
            best: tuple[tuple[int, int], int, Option] | None = None
            self._steps.left -= sum(map(len, parts))
            for position, part in enumerate(parts):
                now = chosen[position]
                for option in part:
                    more = len(option.pods) - len(now.pods)
                    then = [given - old + new for given, old, new in zip(have, now.gives, option.gives, strict=True)]
                    gain = self._worth(spot, then) - self._worth(spot, have)
                    if more <= 0 or gain <= 0 or not self._within(limits, chosen, position, option):
                        continue
                    key = gain // more, now.freed - option.freed
                    if best is None or key > best[0]:
                        best = key, position, option
            if best is None:
                return None
            _, position, option = best
            have = [
                given - old + new for given, old, new in zip(have, chosen[position].gives, option.gives, strict=True)
            ]
            chosen[position] = option
        victims = [self._of_key[pod.key] for option in chosen for pod in option.pods]
        if not self._works(spot, victims):
            return None
        groups: defaultdict[str, list[Victim]] = defaultdict(list)
        for v in victims:
            groups[v.pod.group if v.pod.group in self._whole else v.newest[1]].append(v)
        for together in (*groups.values(), *([v] for v in sorted(victims, key=lambda v: _frees(v, spot.lacked)))):
            less = [v for v in victims if v not in together]
            if len(together) < len(victims) and len(less) < len(victims) and self._works(spot, less):
                victims = less
        return self._option(spot, _Bundle(tuple(victims), ()), ())

    def _worth(self, spot: _Spot, gives: Sequence[int]) -> int:
        """What some give as parts of what is short, summed."""
        return sum([min(lack, each) * 1_000_000 // lack for each, lack in zip(gives, spot.short, strict=True) if lack])

    def _within(self, limits: Amounts, chosen: Sequence[Option], position: int, option: Option) -> bool:
        """Whether the limits hold with one option in the place of another."""
        return all(
            sum(each.takes[at] for each in chosen) - chosen[position].takes[at] + option.takes[at] <= limit
            for at, limit in enumerate(limits)
        )

    # Whether they may go, and what that gives.

    def _for_quota(self) -> tuple[int, int]:
        """Fewer pods than the first give the quota too little; of more than the second some can be left out."""
        least = most = 0
        if any(self._short):
            given = [(self._gives(alike[0]), len(alike)) for alike in self._alike()]
            given += [(self._gives(v), 1) for group in self._whole.values() for v in group]
            for position, lack in enumerate(self._short):
                gives = [(each[position], count) for each, count in given if each[position] > 0]
                least = max(least, _fewest(gives, lack))
                most += -(-lack // min(gives)[0])
        return least, most * max([1, *map(len, self._whole.values())])

    def _may_go(self, victim: Victim) -> bool:
        """Whether disruption budgets let a pod go; the Eviction API refuses those that several cover."""
        budgets = victim.budgets
        return not (budgets and self._guarded) or (len(budgets) == 1 and self._case.allowed.get(budgets[0], 1) > 0)

    def _spare(self, victim: Victim) -> bool:
        """Whether a pod may go without the others of its group."""
        unit = self._case.units.get(victim.pod.group)
        return unit is None or unit.spare > 0

    def _gives(self, victim: Victim) -> Amounts:
        """What of each shortage of the quota a pod's end makes up."""
        if victim.quota is None:
            return self._nothing
        asked, least, own = victim.request, victim.quota.min, victim.quota is self._case.quota
        return tuple(asked.get(name, 0) if (own if by_max else name in least) else 0 for name, by_max in self._lacking)

    def _passes(self, victims: Iterable[Victim]) -> bool:
        """Whether the quota lets the pod pass once some have gone."""
        given = [sum(column) for column in zip(self._nothing, *map(self._gives, victims), strict=True)]
        return all(map(int.__ge__, given, self._short))

    def _lets_go(self, victims: Sequence[Victim]) -> bool:
        """Whether the disruption budgets let all of them go."""
        if not (self._case.allowed and self._guarded):
            return True
        taken = Counter(budget for victim in victims for budget in victim.budgets)
        return all(count <= self._case.allowed.get(budget, count) for budget, count in taken.items())

    def _whole_groups(self, chosen: Sequence[Victim]) -> bool:
        """Whether nobody is left behind of groups that are of no use without those that go."""
        of = Counter(v.pod.group for v in chosen if v.pod.group in self._case.units)
        for group, count in of.items():
            alone = all(v.newest[1] not in self._beside for v in chosen if v.pod.group == group)
            if not (alone and count <= self._case.units[group].spare) and count != len(self._whole.get(group, ())):
                return False
        return True


def _limit(group: str) -> str:
    """The name of the limit to pods of a group that go by themselves."""
    return f"group {group}" if group else ""


def _amount(victim: Victim, name: str) -> int:
    """What a pod leaves on its node of a resource."""
    return 1 if name == resources.PODS else victim.request.get(name, 0)


def _frees(victim: Victim, lacked: Iterable[str]) -> int:
    asked = victim.request
    return sum([asked.get(name, 0) for name in lacked])


def _fewest(gives: Iterable[tuple[int, int]], lack: int) -> int:
    """How many at least are needed to make up what is short; ``gives``: what so many give, each."""
    found = 0
    for given, count in sorted(gives, reverse=True):
        if lack <= 0 or given <= 0:
            break
        needed = min(count, -(-lack // given))
        found, lack = found + needed, lack - needed * given
    return found


def _fewest_for_devices(devices: Iterable[Device], keys: Sequence[str], instances: int) -> int:
    """How many at least of some pods must go so that GPUs can give so many instances, whichever these are."""
    reached = [0, *[len(keys)] * instances]
    for device in devices:
        need = device.fewest(keys)
        reached = [
            min(reached[max(0, count - given)] + gone for given, gone in enumerate(need))
            for count in range(len(reached))
        ]
    return reached[-1]


def _union(device: Device, victims: Iterable[Victim]) -> int:
    gone = 0
    for v in victims:
        gone |= device.held.get(v.newest[1], 0)
    return gone


def _loads(devices: Sequence[Device], gone: Sequence[int]) -> Iterable[Amounts]:
    """What GPUs can give together once some of what is held comes free."""
    found = devices[0].loads(gone[0])
    for device, bits in zip(devices[1:], gone[1:], strict=True):
        found = list({tuple(map(int.__add__, one, other)): None for one in found for other in device.loads(bits)})
    return found
