"""Who is let in, nominated and evicted: whole small worlds, one sentence each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from brain.decide.admission import Admission, admit
from brain.decide.decisions import Evict, LetIn, Nominate, OpenGate
from brain.decide.holds import wake_seconds
from brain.decide.loop import Settings, decide
from brain.model.affinity import LabelSelector, Requirement
from brain.model.budget import Budget
from brain.model.hold import Hold
from brain.model.node import Node
from brain.model.pod import Pod
from brain.model.quota import Kind, Quota
from brain.model.snapshot import Snapshot
from n8s import names
from tests.worlds import bound, gpu, node, pod

GB = 16
OTHER_GATE = "example.com/other"


def quota(namespace: str, least: Mapping[str, int], most: Mapping[str, int] | None = None) -> Quota:
    return Quota(Kind.SINGLE, namespace, namespace, (namespace,), least, most or {})


def gated(key: str, cpu: int = 0, mig: Mapping[str, int] | None = None, **changes: Any) -> Pod:
    namespace, _, name = key.partition("/")
    plain = pod(name, mig, namespace, request={"cpu": cpu}, gates=(names.QUOTA_GATE,), unschedulable=False)
    return replace(plain, **{"never_preempts": True, **changes})


def running(key: str, cpu: int = 0, mig: Mapping[str, int] | None = None, on: str = "n", **changes: Any) -> Pod:
    namespace, _, name = key.partition("/")
    each = bound(name, on, mig, request={"cpu": cpu})
    return replace(each, namespace=namespace, uid=f"uid-{namespace}-{name}", **changes)


def inside(key: str, cpu: int = 0, mig: Mapping[str, int] | None = None, how: str = "reclaim", **changes: Any) -> Pod:
    """Let in, and refused by the scheduler."""
    plain = gated(key, cpu, mig, gates=(), unschedulable=True, reservation=f"in-quota/{how}/n")
    return replace(plain, **changes)


def cpus(count: int, name: str = "n") -> Node:
    return Node(name, allocatable={"cpu": count, "memory": 1 << 40, "pods": 110})


def decided(*pods: Pod, quotas: tuple[Quota, ...], nodes: tuple[Node, ...], **others: Any) -> Admission:
    return admit(Snapshot(nodes, pods, quotas, **others), GB)


def let_in(result: Admission) -> dict[str, str]:
    return {f"{d.namespace}/{d.name}": d.reservation for d in result.decisions if isinstance(d, LetIn)}


def evicted(result: Admission) -> dict[str, str]:
    return {f"{d.namespace}/{d.name}": d.beneficiary for d in result.decisions if isinstance(d, Evict)}


def nominated(result: Admission) -> dict[str, str]:
    return {f"{d.namespace}/{d.name}": d.node for d in result.decisions if isinstance(d, Nominate)}


A, B = quota("a", {"cpu": 2000}), quota("b", {"cpu": 2000})
BOTH = (A, B)
FOUR = (cpus(4000),)
BORROWED = (
    running("b/old", 1000, created=1),
    running("b/x", 1000, created=2),
    running("b/y", 1000, created=3, labels={"app": "kept"}),
    running("b/z", 1000, created=4, labels={"app": "kept"}),
)


def test_the_gate_opens_when_the_quota_is_gone() -> None:
    result = decided(gated("c/p", 1000), gated("a/p", 1000), quotas=BOTH, nodes=FOUR)
    assert [d.name for d in result.decisions if isinstance(d, OpenGate)] == ["p"]
    assert let_in(result).keys() == {"a/p"}
    result = decided(gated("c/p", 1000), quotas=(), nodes=FOUR)
    assert result.decisions == (OpenGate("c", "p", "uid-c-p"),)


def test_a_pod_is_let_in_as_it_was_seen() -> None:
    result = decided(gated("a/p", 1000, version="7"), quotas=BOTH, nodes=FOUR)
    assert [d.version for d in result.decisions if isinstance(d, LetIn)] == ["7"]


def test_gates_of_others_come_first() -> None:
    result = decided(gated("a/p", 1000, gates=(names.QUOTA_GATE, OTHER_GATE)), quotas=BOTH, nodes=FOUR)
    assert result.decisions == ()
    assert OTHER_GATE in result.waits["a/p"]
    assert decided(gated("c/p", gates=(OTHER_GATE,)), quotas=BOTH, nodes=FOUR).decisions == ()


def test_an_owner_is_let_in_where_there_is_room() -> None:
    assert let_in(decided(gated("a/p", 2000), quotas=BOTH, nodes=FOUR)) == {"a/p": "in-quota/free"}


def test_a_borrower_is_let_in_up_to_the_sum_of_min_and_not_beyond() -> None:
    there = (running("a/one", 2000), running("a/two", 1000))
    large = (cpus(9000),)
    assert let_in(decided(*there, gated("a/p", 1000), quotas=BOTH, nodes=large)) == {"a/p": "over-quota/free"}
    result = decided(*there, gated("a/p", 1500), quotas=BOTH, nodes=large)
    assert result.decisions == ()
    assert result.waits["a/p"] == "waits: quotas lend 1 of 4 cpu, and this asks for 1500m"


def test_an_owner_is_not_told_of_borrowing() -> None:
    protected = {names.PREEMPTIBLE_LABEL: "false"}
    there = [running(f"b/{name}", 1500, labels=protected) for name in "xy"]
    result = decided(*there, gated("a/p", 1500), quotas=BOTH, nodes=FOUR)
    assert result.decisions == ()
    told = "waits: all but 1 of the 4 cpu that quotas guarantee are used, and this asks for 1500m"
    assert result.waits["a/p"] == told


def test_max_holds() -> None:
    quotas = (quota("a", {"cpu": 2000}, {"cpu": 2500}), B)
    result = decided(running("a/one", 2000), gated("a/p", 1000), quotas=quotas, nodes=FOUR)
    assert result.decisions == ()
    assert result.waits["a/p"] == "waits: a uses 2 of max 2500m cpu, and this asks for 1"


def test_an_owner_goes_before_an_older_borrower_of_higher_priority() -> None:
    there = (running("a/one", 2000, priority=5), running("b/one", 1000))
    older = gated("a/older", 1000, created=1, priority=5)
    assert let_in(decided(*there, older, gated("b/owner", 1000, created=9), quotas=BOTH, nodes=FOUR)) == {
        "b/owner": "in-quota/free"
    }


def test_a_group_goes_in_together_or_not_at_all() -> None:
    group = [gated(f"a/g{n}", 1000, group="job/a/j", group_min=3) for n in range(3)]
    assert len(let_in(decided(*group, quotas=BOTH, nodes=FOUR))) == 3
    lent = running("b/one", 2000)
    result = decided(lent, *group, quotas=BOTH, nodes=(cpus(9000),))
    assert let_in(result) == {}
    assert set(result.waits.values()) == {"waits: 3 pods of its group go in together, and the quota lets 2"}
    assert let_in(decided(*group, quotas=BOTH, nodes=(cpus(2000),))) == {}


def test_a_group_without_room_does_not_stand_in_the_way_of_others() -> None:
    group = [gated(f"a/g{n}", 1000, group="job/a/j", group_min=3) for n in range(3)]
    assert let_in(decided(*group, gated("a/alone", 1000), quotas=BOTH, nodes=(cpus(2000),))).keys() == {"a/alone"}


def test_what_is_too_little_for_a_group_is_for_others() -> None:
    quotas = (A, quota("b", {"cpu": 0}), quota("c", {"cpu": 9000}))
    group = [gated(f"a/g{n}", 1000, group="job/a/j", priority=9) for n in range(2)]
    other = [gated(f"c/g{n}", 1000, group="job/c/j", priority=8) for n in range(2)]
    nodes = (cpus(1000), cpus(500, "m"))
    assert let_in(decided(*group, gated("b/p", 1000), quotas=quotas, nodes=nodes)) == {"b/p": "over-quota/free"}
    wide = replace(group[1], request={"cpu": 3000})
    result = decided(group[0], wide, *other, quotas=quotas, nodes=(cpus(1000), cpus(1000, "m")))
    assert let_in(result) == {"c/g0": "in-quota/free", "c/g1": "in-quota/free"}


def test_a_group_takes_back_room_for_all_or_for_nobody() -> None:
    pair = [gated(f"a/g{n}", 1000, group="job/a/j", group_min=2) for n in range(2)]
    assert let_in(decided(*BORROWED, *pair, quotas=BOTH, nodes=FOUR)) == {
        "a/g0": "in-quota/reclaim/n",
        "a/g1": "in-quota/reclaim/n",
    }
    kept = {names.PREEMPTIBLE_LABEL: "false"}
    protected = [running(f"b/{n}", 1000, created=n, labels=kept if n < 3 else {}) for n in range(4)]
    assert let_in(decided(*protected, *pair, quotas=BOTH, nodes=FOUR)) == {}
    alone = gated("a/alone", 1000, created=9)
    assert let_in(decided(*protected, *pair, alone, quotas=BOTH, nodes=FOUR)) == {"a/alone": "in-quota/reclaim/n"}


def test_any_number_for_whom_nothing_can_be_done_stand_in_nobodys_way() -> None:
    quotas = (B, *(quota(f"a{number:02}", {"cpu": 2000}) for number in range(40)))
    vain = [gated(f"a{number:02}/p", 1000, node_selector={"zone": "none"}, priority=9) for number in range(39)]
    result = decided(*BORROWED, *vain, inside("a39/p", 1000, nominated="n"), quotas=quotas, nodes=FOUR)
    assert evicted(result) == {"b/z": "a39/p"}


def test_a_group_of_borrowers_goes_whole_and_counts_whole() -> None:
    group = [running(f"b/g{n}", 1000, created=9, group="job/b/j", group_min=3) for n in range(3)]
    quotas = (A, quota("b", {"cpu": 0}), quota("c", {"cpu": 2000}))
    waiting = inside("a/p", 1000, nominated="n")
    alone = running("b/old", 1000, created=1)
    assert evicted(decided(*group, alone, waiting, quotas=quotas, nodes=FOUR)) == {"b/old": "a/p"}, "one is less"
    kept = replace(alone, labels={names.PREEMPTIBLE_LABEL: "false"})
    result = decided(*group, kept, waiting, quotas=quotas, nodes=FOUR)
    assert evicted(result) == dict.fromkeys(["b/g0", "b/g1", "b/g2"], "a/p")
    spare = [replace(pod, group_min=2) for pod in group]
    assert evicted(decided(*spare, kept, waiting, quotas=quotas, nodes=FOUR)) == {"b/g0": "a/p"}, "two are of use"
    budget = Budget("b", "kept", LabelSelector(), 1)
    assert evicted(decided(*group, kept, waiting, quotas=quotas, nodes=FOUR, budgets=(budget,))) == {}


def test_of_a_group_that_owns_some_only_what_is_borrowed_goes() -> None:
    group = [running(f"b/g{n}", 1000, created=n, group="job/b/j", group_min=4) for n in range(4)]
    waiting = inside("a/p", 1000, nominated="n")
    assert evicted(decided(*group, waiting, quotas=BOTH, nodes=FOUR)) == {"b/g3": "a/p"}


def test_a_protected_pod_may_not_borrow() -> None:
    protected = gated("a/p", 1000, labels={names.PREEMPTIBLE_LABEL: "false"})
    result = decided(running("a/one", 2000), protected, quotas=BOTH, nodes=FOUR)
    assert result.decisions == ()
    assert "not preemptible" in result.waits["a/p"]
    assert let_in(decided(protected, quotas=BOTH, nodes=FOUR)).keys() == {"a/p"}


def test_an_owner_is_let_in_then_nominated_then_the_newest_borrower_goes() -> None:
    first = decided(*BORROWED, gated("a/p", 1000), quotas=BOTH, nodes=FOUR)
    assert let_in(first) == {"a/p": "in-quota/reclaim/n"}
    assert evicted(first) == {}
    assert nominated(first) == {}
    fresh = inside("a/p", 1000, unschedulable=False)
    assert decided(*BORROWED, fresh, quotas=BOTH, nodes=FOUR).decisions == ()
    second = decided(*BORROWED, inside("a/p", 1000), quotas=BOTH, nodes=FOUR)
    assert nominated(second) == {"a/p": "n"}
    assert evicted(second) == {}
    third = decided(*BORROWED, inside("a/p", 1000, nominated="n"), quotas=BOTH, nodes=FOUR)
    assert third.decisions == (third.decisions[0],)
    assert evicted(third) == {"b/z": "a/p"}


def test_nobody_else_goes_while_victims_are_on_their_way_out() -> None:
    leaving = (*BORROWED[:3], replace(BORROWED[3], terminating=True))
    result = decided(*leaving, inside("a/p", 1000, nominated="n"), quotas=BOTH, nodes=FOUR)
    assert result.decisions == ()


def test_what_victims_leave_is_kept_from_those_who_come_back() -> None:
    leaving = (*BORROWED[:2], replace(BORROWED[2], terminating=True))
    waiting = inside("a/p", 2000, nominated="n")
    result = decided(*leaving, waiting, gated("b/z2", 1000, created=9), quotas=BOTH, nodes=FOUR)
    assert result.decisions == ()
    hot = gated("a/p", 2000, priority=9, never_preempts=False)
    result = decided(*leaving, hot, gated("b/z2", 1000, created=9), quotas=BOTH, nodes=FOUR)
    assert result.decisions == ()


def test_free_room_is_kept_for_one_whose_quota_waits_for_pods_on_their_way_out() -> None:
    """Its victim has gone already, and would come back else, and be evicted again."""
    nodes = (replace(cpus(1000), labels={"name": "n"}), cpus(2000, "m"))
    there = (replace(running("a/slow", 1000, on="m"), terminating=True), running("a/other", 1000, on="m"))
    back = gated("b/back", 1000, created=9)
    protected = {names.PREEMPTIBLE_LABEL: "false"}
    for most, labels in (({}, protected), ({"cpu": 2000}, {})):
        quotas = (quota("a", {"cpu": 2000}, most), quota("b", {"cpu": 0}), quota("c", {"cpu": 2000}))
        waiting = gated("a/p", 1000, node_selector={"name": "n"}, labels=labels)
        result = decided(*there, waiting, back, quotas=quotas, nodes=nodes)
        assert result.decisions == ()
        assert let_in(decided(*there, back, quotas=quotas, nodes=nodes)) == {"b/back": "over-quota/free"}


def test_who_comes_back_as_an_owner_waits_for_the_borrower_of_its_quota_that_it_left() -> None:
    slow = replace(running("a/slow", 1000), terminating=True)
    back = gated("a/back", 1000, created=9)
    hot = gated("a/p", 3000, priority=5, never_preempts=False)
    for nodes in (FOUR, (*FOUR, cpus(1000, "m"))):
        assert decided(slow, running("b/one", 1000), hot, back, quotas=BOTH, nodes=nodes).decisions == ()
    assert let_in(decided(slow, running("b/one", 1000), back, quotas=BOTH, nodes=FOUR)) == {"a/back": "in-quota/free"}


def test_nobody_is_evicted_for_one_that_pods_of_its_quota_on_their_way_out_keep_out_longer() -> None:
    """Else its victim would come back, and be evicted, as often as there is time for until these have gone."""
    quotas, nodes = (quota("a", {"cpu": 2000}, {"cpu": 2000}), B), (cpus(1000), cpus(3000, "m"))
    there = (running("a/other", 1000, on="m"), running("b/old", 2000, on="m"), running("b/new", 1000, created=9))
    slow = replace(running("a/slow", 1000, on="m"), terminating=True)
    protected = gated("a/p", 1000, labels={names.PREEMPTIBLE_LABEL: "false"})
    for waiting, of_a in ((gated("a/p", 1000), quotas[0]), (protected, A)):
        assert decided(*there, slow, waiting, quotas=(of_a, B), nodes=nodes).decisions == ()
        assert let_in(decided(*there, waiting, quotas=(of_a, B), nodes=nodes)) == {"a/p": "in-quota/reclaim/n"}


def test_one_that_may_not_borrow_does_not_stand_for_another_that_is_alike() -> None:
    protected = gated("a/first", 1000, priority=5, labels={names.PREEMPTIBLE_LABEL: "false"})
    there = (running("a/low", 2000), running("b/one", 2000))
    result = decided(*there, protected, gated("a/second", 1000, priority=5, created=9), quotas=BOTH, nodes=FOUR)
    assert let_in(result) == {"a/second": "over-quota/reclaim/n"}


def test_free_room_is_kept_for_a_group_that_waits_for_the_rest() -> None:
    pair = [gated(f"a/{name}", 1000, group="job/a/j", priority=9, never_preempts=False) for name in "pq"]
    slow = replace(running("b/slow", 1000, on="m"), terminating=True)
    back = gated("b/back", 1000, created=9)
    quotas, nodes = (A, quota("b", {"cpu": 0})), (cpus(1000), cpus(1000, "m"))
    assert decided(slow, *pair, back, quotas=quotas, nodes=nodes).decisions == ()
    assert let_in(decided(slow, pair[0], back, quotas=quotas, nodes=nodes)).keys() == {"a/p"}, "one is not the group"


NOMINATED = inside("a/p", 1000, nominated="n")


def after(result: Admission, seconds: float) -> dict[str, Hold]:
    return {key: replace(hold, seconds=hold.seconds + seconds) for key, hold in result.holds.items()}


def test_a_hold_ends_when_no_eviction_succeeds_and_is_tried_three_times() -> None:
    def look(holds: Mapping[str, Hold]) -> Admission:
        return decided(*BORROWED, NOMINATED, quotas=BOTH, nodes=FOUR, holds=holds)

    result = look({})
    for rest in (60.0, 300.0):
        assert evicted(look(after(result, 299.0))) == {"b/z": "a/p"}
        result = look(after(result, 300.0))
        assert evicted(result) == {}
        assert nominated(result) == {"a/p": ""}, "what is kept is anybody's"
        assert "no success" in result.waits["a/p"]
        assert evicted(look(after(result, rest - 1.0))) == {}
        result = look(after(result, rest))
        assert evicted(result) == {"b/z": "a/p"}, "tried again"
    result = look(after(result, 300.0))
    assert evicted(look(after(result, 1e6))) == {}, "no fourth time"
    assert wake_seconds(result.holds["a/p"]) is None
    changed = decided(*BORROWED[:3], running("b/q", 1000, created=9), NOMINATED, quotas=BOTH, nodes=FOUR)
    other = decided(
        *BORROWED[:3], running("b/q", 1000, created=9), NOMINATED, quotas=BOTH, nodes=FOUR, holds=after(result, 1.0)
    )
    assert evicted(other) == evicted(changed) == {"b/q": "a/p"}, "others would have to go"


def test_a_hold_ends_when_others_got_what_was_left_for_it_too_often() -> None:
    """Here who comes after each that was evicted is there at once, as one that the brain does not let in."""

    def look(last: Pod, holds: Mapping[str, Hold]) -> Admission:
        return decided(*BORROWED[:3], last, NOMINATED, quotas=BOTH, nodes=FOUR, holds=holds)

    found, holds = [], dict[str, Hold]()
    for number in range(8):
        last = running(f"b/z{number}", 1000, created=9)
        result = look(last, holds)
        found.append(evicted(result))
        holds = after(look(replace(last, terminating=True), result.holds), 1.0)
    assert found == [{f"b/z{number}": "a/p"} for number in range(4)] + 4 * [{}]
    assert "no success" in result.waits["a/p"]
    assert evicted(look(last, after(result, 60.0))) == {"b/z7": "a/p"}, "tried again"


def test_evictions_in_vain_count_though_the_pod_waits_for_what_others_leave_meanwhile() -> None:
    robbed = {"a/p": Hold("uid-a-p", frozenset({"uid-gone"}), gone=True, vain=2)}
    result = decided(*BORROWED[:3], LEAVING, NOMINATED, quotas=BOTH, nodes=FOUR, holds=robbed)
    assert (result.holds["a/p"].gone, result.holds["a/p"].vain) == (True, 2)
    result = decided(*BORROWED[:3], running("b/w", 1000), NOMINATED, quotas=BOTH, nodes=FOUR, holds=after(result, 1.0))
    assert result.holds["a/p"].vain == 3


def test_a_hold_lasts_as_long_as_evictions_succeed() -> None:
    pair = inside("a/p", 2000, nominated="n")
    first = decided(*BORROWED, pair, quotas=BOTH, nodes=FOUR)
    assert evicted(first) == {"b/y": "a/p", "b/z": "a/p"}
    one_goes = (*BORROWED[:3], replace(BORROWED[3], terminating=True))
    second = decided(*one_goes, pair, quotas=BOTH, nodes=FOUR, holds=after(first, 299.0))
    assert evicted(second) == {"b/y": "a/p"}
    assert second.holds["a/p"].seconds == 0.0
    recreated = replace(pair, uid="other")
    third = decided(*one_goes, recreated, quotas=BOTH, nodes=FOUR, holds=after(second, 1e6))
    assert evicted(third) == {"b/y": "a/p"}, "another pod of that name"


def test_room_of_pods_that_never_go_is_not_kept_for_ever() -> None:
    stuck = (*BORROWED[:3], replace(BORROWED[3], terminating=True))
    first = decided(*stuck, NOMINATED, quotas=BOTH, nodes=FOUR)
    assert first.decisions == ()
    second = decided(*stuck, NOMINATED, quotas=BOTH, nodes=FOUR, holds=after(first, 300.0))
    assert nominated(second) == {"a/p": ""}
    free = decided(*BORROWED[:3], NOMINATED, quotas=BOTH, nodes=FOUR, holds=after(second, 1.0))
    assert free.decisions == ()


def test_a_disruption_budget_that_lets_nobody_go_names_another_victim_or_none() -> None:
    budget = Budget("b", "kept", LabelSelector(), 0)
    waiting = inside("a/p", 1000, nominated="n")
    result = decided(*BORROWED, waiting, quotas=BOTH, nodes=FOUR, budgets=(budget,))
    assert evicted(result) == {}
    assert result.waits["a/p"] == "waits: PodDisruptionBudget b/kept allows no eviction of b/z"
    kept = Budget("b", "kept", LabelSelector((Requirement("app", "In", ("kept",)),)), 0)
    more = (running("b/old", 2000, created=1), *BORROWED[1:3])
    assert evicted(decided(*more, waiting, quotas=BOTH, nodes=FOUR, budgets=(kept,))) == {"b/x": "a/p"}


def test_of_pods_that_are_alike_one_that_came_in_past_the_gate_goes_before_newer_ones() -> None:
    let_in = [replace(each, reservation="over-quota/free/n") for each in BORROWED]
    past = replace(let_in[1], reservation="")
    hot = gated("a/p", 1000, priority=9, never_preempts=False)
    assert evicted(decided(*let_in, hot, quotas=BOTH, nodes=FOUR)) == {"b/z": "a/p"}
    three = [let_in[0], past, *let_in[2:]]
    assert evicted(decided(*three, hot, quotas=BOTH, nodes=FOUR)) == {"b/z": "a/p"}, "it is in-quota"
    low = (A, replace(B, min={"cpu": 1000}), quota("c", {"cpu": 1000}))
    assert evicted(decided(*three, hot, quotas=low, nodes=FOUR)) == {"b/x": "a/p"}
    three[1] = replace(past, priority=1)
    assert evicted(decided(*three, hot, quotas=low, nodes=FOUR)) == {"b/z": "a/p"}, "its priority is higher"


def test_an_owner_is_told_which_budget_holds_and_for_how_many() -> None:
    one = Budget("b", "kept", LabelSelector(), 1)
    result = decided(*BORROWED, gated("a/p", 2000), gated("a/q", 2000), quotas=BOTH, nodes=FOUR, budgets=(one,))
    told = "waits: PodDisruptionBudget b/kept allows only 1 eviction of b/y, b/z"
    assert (result.waits["a/p"], result.waits["a/q"]) == (told, told), "also who is like it"
    assert result.about["a/p"] == "budgets b/kept"
    big = decided(*BORROWED, gated("a/p", 5000), quotas=BOTH, nodes=FOUR, budgets=(one,))
    assert "PodDisruptionBudget" not in big.waits["a/p"], "it would not help if they went"


def test_a_group_is_told_which_budget_holds() -> None:
    one = Budget("b", "kept", LabelSelector(), 1)
    group = [gated(f"a/g{number}", 1000, group="g") for number in range(2)]
    result = decided(*BORROWED, *group, quotas=BOTH, nodes=FOUR, budgets=(one,))
    assert evicted(result) == {}
    told = "waits: PodDisruptionBudget b/kept allows no eviction of b/y"
    assert (result.waits["a/g0"], result.waits["a/g1"]) == (told, told)


def test_pods_that_several_budgets_cover_are_no_victims() -> None:
    budgets = (Budget("b", "one", LabelSelector(), 5), Budget("b", "two", LabelSelector(), 5))
    waiting = inside("a/p", 1000, nominated="n")
    result = decided(*BORROWED, waiting, quotas=BOTH, nodes=FOUR, budgets=budgets)
    assert evicted(result) == {}
    told = "waits: PodDisruptionBudgets b/one and b/two cover b/z, and what several cover is never evicted"
    assert result.waits["a/p"] == told


def test_who_comes_back_is_told_for_whom_it_had_to_go() -> None:
    owner, again = gated("a/p", 2000, never_preempts=False, priority=1), gated("b/new", 1000, created=50)
    told = "waits: quotas lend 0 of 4 cpu, and this asks for 1; owner of min in a has 2 pods leave to make room for a/p"
    result = decided(*BORROWED, owner, again, quotas=BOTH, nodes=FOUR)
    assert evicted(result) == {"b/y": "a/p", "b/z": "a/p"}
    assert result.waits["b/new"] == told
    assert result.about["b/new"] == "sum_min cpu"
    leave = [replace(pod, terminating=pod.name in {"y", "z"}) for pod in BORROWED]
    assert decided(*leave, owner, again, quotas=BOTH, nodes=FOUR).waits["b/new"] == told, "another brain says the same"
    late = decided(*BORROWED[:2], replace(owner, gates=(), node="n", phase="Running"), again, quotas=BOTH, nodes=FOUR)
    assert late.waits["b/new"] == "waits: quotas lend 0 of 4 cpu, and this asks for 1"


def test_what_is_lent_is_never_less_than_nothing() -> None:
    result = decided(*BORROWED, inside("a/p", 1000, nominated="n"), gated("b/new", 1000), quotas=BOTH, nodes=FOUR)
    assert result.waits["b/new"].startswith("waits: quotas lend 0 of 4 cpu, and this asks for 1")


def test_who_kube_scheduler_would_preempt_for_keeps_its_gate_until_the_room_is_real() -> None:
    hot = gated("a/p", 1000, priority=9, never_preempts=False)
    result = decided(*BORROWED, hot, quotas=BOTH, nodes=FOUR)
    assert let_in(result) == {}
    assert evicted(result) == {"b/z": "a/p"}
    assert let_in(decided(*BORROWED[:3], hot, quotas=BOTH, nodes=FOUR)).keys() == {"a/p"}


def test_a_pod_beyond_its_max_keeps_its_gate_until_others_of_its_quota_are_gone() -> None:
    quotas = (quota("a", {"cpu": 1000}, {"cpu": 2000}), B)
    result = decided(running("a/low", 2000), gated("a/high", 1000, priority=5), quotas=quotas, nodes=FOUR)
    assert let_in(result) == {}
    assert evicted(result) == {"a/low": "a/high"}


def test_a_pod_that_would_be_bound_at_once_keeps_its_gate_until_its_victims_are_gone() -> None:
    """Free is only what is kept for an owner of lower priority: nominations keep room from no higher one."""
    quotas = (A, quota("b", {"cpu": 2000}))
    owner = inside("a/p", 2000, nominated="n")
    there = (running("b/low", 1000), running("b/other", 1000, priority=9))
    result = decided(*there, owner, gated("b/high", 1000, priority=5), quotas=quotas, nodes=FOUR)
    assert let_in(result) == {}
    assert evicted(result) == {"b/low": "b/high"}


LEAVING = replace(BORROWED[3], terminating=True)
GONE_FOR_P = {"a/p": Hold("uid-a-p", leaving=frozenset({LEAVING.uid}), gone=True)}
WITH_C = (*BOTH, quota("c", {"cpu": 1000}))


def test_what_victims_leave_is_nobody_elses_though_its_turn_be_before() -> None:
    hot = gated("a/p", 1000, never_preempts=False, priority=1)
    kept = "waits for pods on their way out; room is kept on n"
    for waiting in (NOMINATED, hot):
        for high in (gated("c/high", 1000, priority=5), gated("a/high", 1000, priority=5)):
            there = (*BORROWED[:3], LEAVING, waiting, high)
            result = decided(*there, quotas=WITH_C, nodes=FOUR, holds=GONE_FOR_P)
            assert result.waits["a/p"] == kept
            assert evicted(result) == {"b/y": high.key}
            assert let_in(result) == {}
            assert decided(*there, quotas=WITH_C, nodes=FOUR).waits[high.key] == kept


def test_nobody_else_goes_while_devices_of_who_has_ended_are_not_free_yet() -> None:
    """Between its end, or that of its object, and its agent's next look; of its name may be a new pod."""
    quotas = tuple(quota(name, {names.GPU_MEMORY: least}) for name, least in (("a", 20), ("b", 10), ("c", 20)))
    where = node("n", [gpu(0, "3g.20gb@0u:b/x 3g.20gb@4u:b/y")])
    there = (inside("a/p", 0, {"3g.20gb": 1}, nominated="n"), running("b/x", 0, {"3g.20gb": 1}, created=9))
    last = running("b/y", 0, {"3g.20gb": 1})
    assert evicted(decided(*there, last, quotas=quotas, nodes=(where,))) == {"b/x": "a/p"}
    some = {"a/p": Hold("uid-a-p", frozenset({last.uid}))}
    for gone in ([replace(last, phase="Succeeded")], [], [gated("b/y", 0, {"3g.20gb": 1})]):
        for holds in ({}, some):
            result = decided(*there, *gone, quotas=quotas, nodes=(where,), holds=holds)
            assert result.decisions == ()
            assert result.waits["a/p"] == "waits for pods on their way out; room is kept on n"
            assert result.holds["a/p"].gone == bool(holds)
            assert not result.holds["a/p"].spent, "it ends if that lasts"
    coming = replace(gated("b/y", 0, {"3g.20gb": 1}), gates=())
    assert evicted(decided(*there, coming, quotas=quotas, nodes=(where,))) == {"b/x": "a/p"}


def test_two_that_were_robbed_do_not_keep_each_other_out() -> None:
    there = (running("outside/o", 1000, on="k"),)
    nodes = (cpus(1000), cpus(1000, "m"), cpus(1000, "k"))
    robbed = {key: Hold(f"uid-{key.replace('/', '-')}", gone=True, vain=1) for key in ("a/p", "a/q", "c/q")}
    for group in ("", "job/a/j"):
        keys = ("a/p", "a/q" if group else "c/q")
        pair = [gated(key, 1000, never_preempts=False, priority=1, group=group, group_min=2) for key in keys]
        result = decided(*there, *pair, quotas=WITH_C, nodes=nodes, holds=robbed)
        assert "a/p" in let_in(result)
        assert len(let_in(result)) == (2 if group else 1)


def test_a_group_keeps_its_gates_where_one_of_it_must() -> None:
    """It fits in what one was robbed of before, and the other's room is elsewhere."""
    where = replace(cpus(3000), labels={"name": "n"})
    robbed = inside("a/p", 2000, nominated="n", node_selector={"name": "n"})
    pair = [gated(f"c/g{n}", 1000 * n, priority=5, group="job/c/j", group_min=2) for n in (1, 2)]
    there = (running("b/old", 1000), LEAVING, robbed)
    quotas = (*BOTH, quota("c", {"cpu": 3000}))
    holds = {"a/p": replace(GONE_FOR_P["a/p"], vain=1)}
    assert let_in(decided(*there, *pair, quotas=quotas, nodes=(where, cpus(3000, "m")), holds=holds)) == {}


def test_an_owner_that_keeps_its_gate_for_another_keeps_its_min() -> None:
    full = (*BORROWED[:2], running("outside/o", 1000), LEAVING, NOMINATED)
    pair = (gated("c/high", 1000, priority=5), gated("c/low", 900))
    assert decided(*full, *pair, quotas=WITH_C, nodes=FOUR, holds=GONE_FOR_P).decisions == ()


def test_an_owner_does_not_wait_for_what_a_borrower_was_robbed_of() -> None:
    quotas = (quota("a", {"cpu": 0}), quota("b", {"cpu": 4000}), quota("c", {"cpu": 1000}))
    waiting = inside("a/p", 2000, nominated="n", reservation="over-quota/reclaim/n", priority=1)
    there = (running("a/low", 1000), replace(running("a/z", 1000, priority=-1), terminating=True), waiting)
    holds = {"a/p": Hold("uid-a-p", leaving=frozenset({"uid-a-z"}), gone=True, vain=1)}
    owner = gated("c/high", 1000, priority=5)
    result = decided(*there, owner, quotas=quotas, nodes=(cpus(3000), cpus(1000, "m")), holds=holds)
    assert let_in(result) == {"c/high": "in-quota/free"}


def test_who_needs_no_device_does_not_displace_one_that_others_went_for() -> None:
    where = node("n", [gpu(0, "1g.5gb@0f")])
    where = replace(where, allocatable={**where.allocatable, "cpu": 1000})
    waiting = gated("a/p", 1000, {"1g.5gb": 1}, never_preempts=False)
    there = (running("outside/o", priority=-1), waiting, gated("c/high", 1000, priority=5))
    holds = {"a/p": Hold("uid-a-p", frozenset({"uid-gone"}), gone=True)}
    assert let_in(decided(*there, quotas=WITH_C, nodes=(where,), holds=holds)).keys() == {"a/p"}


def test_who_is_nominated_has_its_room_there_though_others_that_are_not_come_first_by_name() -> None:
    nodes = tuple(replace(cpus(cpu, name), labels={"name": name}) for name, cpu in (("m", 2000), ("n", 1000)))
    hot = inside("a/p", 1000, how="free", priority=1, never_preempts=False)
    other = inside("c/q", 1000, nominated="m", node_selector={"name": "m"}, reservation="in-quota/reclaim/m")
    there = (running("b/z", 1000, on="m"), hot, other)
    quotas = (A, quota("b", {"cpu": 0}), quota("c", {"cpu": 1000}))
    holds = {"a/p": Hold("uid-a-p", gone=True)}
    assert evicted(decided(*there, quotas=quotas, nodes=nodes, holds=holds)) == {}


def test_many_for_whom_there_is_no_room_do_not_use_up_what_is_lent() -> None:
    """One after the other passes, finds none, and leaves the rest of what is lent to the next, which is like it."""
    quotas = (quota("a", {"cpu": 5000}), quota("b", {"cpu": 1000}))
    big = [gated(f"a/big{n}", 2000, priority=1, created=n) for n in range(120)]
    there = (running("b/one", 1000), running("a/one", 1000, on="m"), *big, gated("a/small", 1000, created=99))
    result = decided(*there, quotas=quotas, nodes=(cpus(2000), cpus(2000, "m")))
    assert let_in(result)["a/small"] == "in-quota/free"
    assert {result.waits[each.key] for each in big} == {"waits: no node has room"}


def test_few_for_whom_there_is_no_room_do_not_use_up_the_plans_of_a_round() -> None:
    """They differ, or are groups, so that each is asked by itself."""
    quotas = (quota("a", {"cpu": 3000}), quota("b", {"cpu": 1000}))
    small = gated("a/small", 1000, created=99)
    there = (running("b/one", 1000), running("a/one", 1000, on="m"))
    big = [gated(f"a/big{n}", 1900 + n, created=n, never_preempts=False, priority=1) for n in range(12)]
    result = decided(*there, *big, small, quotas=quotas, nodes=(cpus(2000), cpus(2000, "m")))
    assert let_in(result) == {"a/small": "in-quota/free"}
    trio = [gated(f"a/g{n}", 1000, priority=1, group=f"job/a/{n // 3}", group_min=3, created=n) for n in range(15)]
    result = decided(running("outside/o", 1000), *trio, small, quotas=quotas[:1], nodes=(cpus(2000),))
    assert let_in(result).keys() == {"a/small"}


def test_devices_that_stay_held_are_not_waited_for() -> None:
    """By a container that does not end, say, though its pod is gone."""
    quotas = tuple(quota(name, {names.GPU_MEMORY: least}) for name, least in (("a", 40), ("b", 0), ("c", 40)))
    nodes = (node("k", [gpu(0, "7g.40gb@0u:b/gone")]), node("n", [gpu(0, "7g.40gb@0u:b/x")]))
    there = (gated("a/p", 0, {"7g.40gb": 1}, never_preempts=False, priority=1), running("b/x", 0, {"7g.40gb": 1}))
    for seconds, found in ((14.0, {}), (15.0, {"b/x": "a/p"})):
        result = decide(Snapshot(nodes, there, quotas, lingered={("k", "b/gone"): seconds}), Settings(GB))
        assert {f"{d.namespace}/{d.name}": d.beneficiary for d in result.decisions if isinstance(d, Evict)} == found
        assert result.lingering == {("k", "b/gone")}
        assert found or result.wake_seconds == 1.0


def test_pods_that_are_alike_keep_their_turns() -> None:
    """One is an owner only once another is found to have no room, and comes before the one that it is like."""
    nowhere = {"name": "nowhere"}
    quotas = (quota("a", {"cpu": 1000}), quota("b", {"cpu": 1500}), quota("c", {"cpu": 0}))
    hot = gated("a/h", 1000, priority=9, never_preempts=False, node_selector=nowhere)
    waiting = (hot, gated("c/r", 500, priority=2), gated("c/p", 1000, priority=1), gated("a/q", 1000))
    result = decided(running("outside/o", 1000, on="m"), *waiting, quotas=quotas, nodes=(cpus(1000), cpus(1000, "m")))
    assert let_in(result) == {"a/q": "in-quota/free"}
    pair = (gated("a/h", 1000, priority=1, never_preempts=False), gated("a/q", 1000))
    result = decided(running("outside/o", 1000), *pair, quotas=quotas[:1], nodes=(cpus(1000),))
    assert let_in(result) == {"a/q": "in-quota/none"}


def test_a_group_waits_for_its_last() -> None:
    """One gets what leaves, for the other somebody must go: neither is let in before."""
    quotas = (quota("b", {"cpu": 0}), quota("c", {"cpu": 2000}), quota("d", {"cpu": 2000}))
    pair = [gated(f"c/g{n}", 1000, group="job/c/j", group_min=2) for n in (0, 1)]
    there = (running("b/y", 1000), running("b/x", 1000), LEAVING)
    result = decided(*there, *pair, quotas=quotas, nodes=(cpus(3000),))
    assert let_in(result) == {}
    assert len(evicted(result)) == 1


def test_what_one_victim_left_is_kept_while_another_is_yet_to_go() -> None:
    """As when its eviction was refused."""
    pair, back = inside("a/p", 2000, nominated="n"), gated("b/back", 1000, created=9)
    quotas = (*BOTH, quota("c", {"cpu": 4000}))
    some = {"a/p": Hold("uid-a-p", frozenset({BORROWED[2].uid, BORROWED[3].uid}))}
    result = decided(*BORROWED[:3], pair, back, quotas=quotas, nodes=FOUR, holds=some)
    assert let_in(result) == {}
    assert evicted(result) == {"b/y": "a/p"}
    assert let_in(decided(*BORROWED[:3], pair, back, quotas=quotas, nodes=FOUR)).keys() == {"b/back"}


def test_the_rest_goes_for_one_that_some_are_on_their_way_out_for_already() -> None:
    """Though these keep it out for longer: what they leave is kept."""
    quotas = (quota("a", {"cpu": 1000}, {"cpu": 2500}), quota("c", {"cpu": 4000}))
    there = (running("outside/o", 2000), running("a/y", 1000), replace(running("a/x", 1000), terminating=True))
    waiting = gated("a/p", 2000, priority=5)
    assert decided(*there, waiting, quotas=quotas, nodes=FOUR).decisions == ()
    some = {"a/p": Hold("uid-a-p", frozenset({"uid-a-y", "uid-a-x"}))}
    assert evicted(decided(*there, waiting, quotas=quotas, nodes=FOUR, holds=some)) == {"a/y": "a/p"}


def test_who_would_be_bound_to_what_victims_leave_for_another_keeps_its_gate() -> None:
    """Nominations stop no higher priority. One that has room elsewhere waits only if the other was robbed before."""
    full = (*BORROWED[:2], running("outside/o", 1000), LEAVING, NOMINATED)
    high = gated("c/high", 1000, priority=5)
    result = decided(*full, high, quotas=WITH_C, nodes=FOUR, holds=GONE_FOR_P)
    assert result.decisions == ()
    assert "room on n that is kept" in result.waits["c/high"]
    assert let_in(decided(*full, gated("c/low", 1000), quotas=WITH_C, nodes=FOUR, holds=GONE_FOR_P)).keys() == {"c/low"}

    gap = (running("b/old", 1000), LEAVING, inside("a/p", 2000, nominated="n"))
    nodes = (cpus(3000), cpus(1000, "m"))
    assert let_in(decided(*gap, high, quotas=WITH_C, nodes=nodes, holds=GONE_FOR_P)).keys() == {"c/high"}
    robbed = {"a/p": replace(GONE_FOR_P["a/p"], vain=1)}
    result = decided(*gap, high, quotas=WITH_C, nodes=nodes, holds=robbed)
    assert result.decisions == ()
    assert "room on n that is kept" in result.waits["c/high"]
    assert let_in(decided(*gap, gated("c/low", 1000), quotas=WITH_C, nodes=nodes, holds=robbed)).keys() == {"c/low"}


def test_what_victims_left_is_kept_for_one_without_a_nomination_too() -> None:
    """For which kube-scheduler might preempt, and which it is yet to bind."""
    hot = inside("a/p", 1000, how="free", priority=1, never_preempts=False)
    there = (running("outside/o", 1000, on="m"), hot, gated("c/q", 1000))
    nodes = (cpus(1000), cpus(1000, "m"))
    assert let_in(decided(*there, quotas=WITH_C, nodes=nodes)) == {"c/q": "in-quota/free"}
    left = {"a/p": Hold("uid-a-p", gone=True)}
    assert decided(*there, quotas=WITH_C, nodes=nodes, holds=left).decisions == ()


def test_one_that_is_not_bound_to_what_it_has_holds_up_nobody_for_long() -> None:
    there = (*BORROWED[:2], running("outside/o", 1000), NOMINATED, gated("c/high", 1000, priority=5))
    for seconds, found in ((14.0, set[str]()), (15.0, {"c/high"})):
        left = {"a/p": Hold("uid-a-p", gone=True, seconds=seconds)}
        result = decided(*there, quotas=WITH_C, nodes=FOUR, holds=left)
        assert let_in(result).keys() == found
        assert wake_seconds(result.holds["a/p"]) == (None if found else 1.0)


def test_an_owner_is_let_in_before_room_is_kept_for_a_later_borrower_and_nobody_is_evicted_for_that() -> None:
    """All that quotas lend is used then: the borrower would be beyond it, and its victim would have gone in vain."""
    quotas = tuple(quota(name, {"gpu": 1}) for name in "ab")
    there = (replace(running("b/one", priority=9), request={"gpu": 1}), running("b/small", 1000, on="m"))
    kept = inside("b/p", priority=5, nominated="m", reservation="over-quota/reclaim/m", node_selector={"name": "m"})
    owner = replace(gated("a/p"), request={"gpu": 1}, node_selector={"name": "n"})
    nodes = [
        Node(name, labels={"name": name}, allocatable={"gpu": count, "cpu": 1000, "memory": 1 << 40, "pods": 110})
        for name, count in (("n", 2), ("m", 1))
    ]
    result = decided(*there, replace(kept, request={"gpu": 1, "cpu": 1000}), owner, quotas=quotas, nodes=tuple(nodes))
    assert let_in(result).keys() == {"a/p"}
    assert nominated(result) == {"b/p": ""}
    assert evicted(result) == {}


def test_an_owner_that_nobody_can_make_room_for_is_let_in_for_an_autoscaler_only_if_cold() -> None:
    outside = running("outside/p", 4000)
    assert let_in(decided(outside, gated("a/p", 1000), quotas=BOTH, nodes=FOUR)) == {"a/p": "in-quota/none"}
    hot = gated("a/p", 1000, priority=1, never_preempts=False)
    assert decided(outside, hot, quotas=BOTH, nodes=FOUR).decisions == ()
    borrower = (running("a/one", 2000, on="m"), gated("a/p", 1000))
    assert decided(outside, *borrower, quotas=BOTH, nodes=(*FOUR, cpus(2000, "m"))).decisions == ()


def test_room_that_a_pod_was_let_in_for_is_not_given_twice() -> None:
    fresh = inside("a/p", 2000, how="free", unschedulable=False)
    borrower = gated("b/p", 2500)
    quotas = (A, B, quota("c", {"cpu": 2000}))
    assert let_in(decided(borrower, quotas=quotas, nodes=FOUR)) == {"b/p": "over-quota/free"}
    assert let_in(decided(fresh, borrower, quotas=quotas, nodes=FOUR)) == {}


def test_room_of_a_pod_on_its_way_out_is_not_free_yet() -> None:
    leaving = replace(running("outside/p", 4000), terminating=True)
    result = decided(leaving, gated("a/p", 1000), quotas=BOTH, nodes=FOUR)
    assert let_in(result) == {}
    assert result.waits["a/p"] == "waits for pods on their way out; room is kept on n"


def test_room_that_pods_were_evicted_for_is_made_before_later_ones_take_what_they_left() -> None:
    """Only one finds cpu. Who is evicted and comes back would have to go again."""
    quotas = tuple(quota(name, {names.GPU_MEMORY: 20}) for name in "ab")
    where = replace(node("n", [gpu(0, "3g.20gb@0u:c/x 1g.5gb@4f")]), allocatable={"cpu": 100, "memory": 1, "pods": 9})
    there = running("c/x", 0, {"3g.20gb": 1})
    later = [gated(f"b/{name}", 100, {"1g.5gb": 1}, created=9, priority=1) for name in "xy"]
    let = replace(later[0], gates=(), unschedulable=True, reservation="in-quota/none")
    cold = inside("a/p", 100, {"3g.20gb": 1}, nominated="n", priority=1)
    hot = gated("a/p", 100, {"3g.20gb": 1}, never_preempts=False, priority=1)
    freed = {"a/p": Hold("uid-a-p", frozenset(), frozenset({"uid-b-gone"}), gone=True)}
    for waiting, others, holds in ((cold, later, {}), (cold, [let], {}), (hot, later, freed), (hot, [let], freed)):
        result = decided(there, waiting, *others, quotas=quotas, nodes=(where,), holds=holds)
        assert result.plan.assigned == {"a/p": "n"}
        assert result.plan.made["a/p"]
        assert result.holds == holds, "until it is let in"


def test_room_that_pods_were_evicted_for_is_not_for_those_either_whose_turn_is_before() -> None:
    """One of its quota that waits in vain, and is not preempted for, may hold a pod back, and who left comes first."""
    quotas = tuple(quota(name, {names.GPU_MEMORY: 20, "cpu": 1000}) for name in "ab")
    where = replace(node("n", [gpu(0, "3g.20gb@0u:c/x 1g.5gb@4f")]), allocatable={"cpu": 100, "memory": 1, "pods": 9})
    vain = inside("a/vain", 900, priority=9, reservation="over-quota/free")
    back = gated("b/back", 100, {"1g.5gb": 1}, created=9)
    cold = inside("a/p", 100, {"3g.20gb": 1}, nominated="n")
    result = decided(running("c/x", 0, {"3g.20gb": 1}), vain, cold, back, quotas=quotas, nodes=(where,))
    assert result.plan.assigned == {"a/p": "n"}


def test_a_large_slice_is_served_by_the_small_ones_on_one_half_of_one_gpu() -> None:
    """Five 1g pods, of which the oldest is in-quota: the half goes that it does not stand on, and no more."""
    quotas = tuple(quota(name, {names.GPU_MEMORY: least}) for name, least in (("a", 20), ("b", 5), ("c", 20)))
    starts = (0, 1, 2, 4, 5)
    text = " ".join(f"1g.5gb@{start}u:b/p{start}" for start in starts)
    waiting = inside("a/big", 0, {"3g.20gb": 1}, nominated="n")
    for oldest, half in ((0, (4, 5)), (5, (0, 1, 2))):
        small = [running(f"b/p{at}", 0, {"1g.5gb": 1}, created=0 if at == oldest else 9) for at in starts]
        result = decided(*small, waiting, quotas=quotas, nodes=(node("n", [gpu(0, text)]),))
        assert evicted(result) == {f"b/p{start}": "a/big" for start in half}
