"""Whether the tests would notice if the planner forgot one of the things that it must respect.

Each mutation takes one constraint out of the planner's text, or weakens it, and must make a test of
the named file fail. A text that is no longer in the module fails too: then the table is behind the program.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.mutants import Nursery, source

# (what is forgotten, module of brain.decide, text before, text after, test file that notices, and words of its tests)
MUTATIONS = [
    # What stays.
    ("used stay", "rooms", "if state is not InstanceState.FREE:", "if state is InstanceState.UNKNOWN:", "constraints"),
    ("unknown stay", "rooms", "if state is not InstanceState.FREE:", "if state is InstanceState.USED:", "constraints"),
    ("promised stay", "rooms", "                room.keep(resource, count)\n", "                pass\n", "constraints"),
    (
        "what is shown is not promised again",
        "rooms",
        "Counter(pod.mig_request) - Counter(shown.get(pod.key, {}))",
        "Counter(pod.mig_request)",
        "constraints",
    ),
    ("orders under way", "rooms", "ordered.get(gpu.index)", "None", "constraints"),
    ("broken ones go", "rooms", "(gpu.broken or gpu.kept", "(gpu.kept", "constraints"),
    # What the hardware takes.
    ("overlap", "grid", "if self._masks[other] & mask or exclusive(", "if exclusive(", "constraints"),
    (
        "exclusion of media engines",
        "grid",
        "if self._masks[other] & mask or exclusive([placement.profile, profile]):",
        "if self._masks[other] & mask:",
        "constraints",
    ),
    (
        "starts",
        "grid",
        "for p in profiles for start in p.starts)",
        "for p in profiles for start in range(p.starts[0], p.starts[-1] + 1))",
        "constraints",
    ),
    ("counts", "grid", "(chosen & places).bit_count() >= profile.max_count:", "False:", "constraints"),
    (
        "slots of what the driver does not list",
        "grid",
        "instance.profile, instance.size)",
        "instance.profile, 1)",
        "traps",
    ),
    # Whether a node may be changed.
    ("label", "eligibility", "    if not node.enabled:\n", "    if False:\n", "partition:refused"),
    ("mig-manager", "eligibility", "    if managed_elsewhere(node):\n", "    if False:\n", "constraints:refused"),
    ("silent agents", "eligibility", "if not node.agent.connected:", "if False:", "constraints:refused"),
    ("agents' problems", "eligibility", "if node.agent.problem:", "if False:", "constraints:refused"),
    ("nodes that are busy", "eligibility", "if node.agent.ordered is not None:", "if False:", "partition"),
    ("time before another try", "eligibility", "node.agent.failure.retry_seconds > 0:", "False:", "constraints:worlds"),
    (
        "one change under a taint",
        "eligibility",
        "node.agent.applied_seconds < node.tainted_seconds:",
        "False:",
        "constraints:worlds",
    ),
    (
        "lost GPUs",
        "eligibility",
        "node.agent.has_lost",
        "False",
        "constraints:worlds",
    ),
    ("devices taken for pods on lost GPUs", "rooms", "agent.held_in_reach", "agent.held", "constraints:worlds"),
    (
        "that a node may not be changed",
        "rooms",
        "if self.fixed_reason or self.settled:",
        "if self.settled:",
        "constraints",
    ),
    ("that, in small clusters", "batch", "change=not site.room.fixed_reason)", "change=True)", "constraints:small"),
    ("that, in large clusters", "sites", "not room.fixed_reason, room.node", "True, room.node", "constraints:large"),
    ("that, pod by pod", "rooms", "if change and self.fixed_reason:", "if False:", "constraints:singly"),
    ("GPUs' problems", "batch", "change=change and not room.gpu.problem)", "change=change)", "constraints:small"),
    ("GPUs' problems in large clusters", "sites", ".change and not content.problem", ".change", "constraints:large"),
    ("GPUs' problems, pod by pod", "rooms", "if self.gpu.problem:", "if False:", "constraints:singly"),
    # What the scheduler says of a node.
    ("readiness", "fit", "if not node.ready:", "if False:", "constraints:refused"),
    ("cordons", "fit", "if node.unschedulable and", "if False and", "constraints:refused"),
    (
        "node selectors",
        "fit",
        "if any(node.labels.get(key) != value",
        "if any(False and key != value",
        "constraints:refused",
    ),
    ("node affinity", "fit", "    if not _affine(pod, node):\n", "    if False:\n", "constraints:refused"),
    ("taints", "fit", 'taint.effect in {"NoSchedule", "NoExecute"}', "not taint.effect", "constraints:refused"),
    ("effects of taints", "fit", '"NoSchedule", "NoExecute"}', '"NoSchedule"}', "fit"),
    ("that our own taint goes", "fit", "taint.key != names.REPARTITIONING_TAINT", "taint.key", "constraints:worlds"),
    ("what bound pods take", "fit", "        take(free, pod)\n", "        pass\n", "constraints:worlds"),
    (
        "that bound pods count",
        "fit",
        "free.get(resources.PODS, 0) - 1",
        "free.get(resources.PODS, 0)",
        "constraints:worlds",
    ),
    (
        "room on nodes",
        "fit",
        "    lacking = resources.lacking({**asked, resources.PODS: 1}, free)",
        "    lacking = []",
        "fit",
    ),
    ("bound pods' host ports", "rooms", "[*self.bound, *self.given]", "self.given", "constraints:ports"),
    ("host ports given in the plan", "rooms", "[*self.bound, *self.given]", "self.bound", "constraints:singly"),
    # The integer program.
    ("how many pods there are", "batch", "self._draft.row(weights, upper=len(pods.pods))", "pass", "constraints:small"),
    ("how many GPUs there are", "batch", "self._draft.row(used, upper=len(group))", "pass", "constraints:small"),
    ("devices", "batch", "lower=-max(0, standing[name]))", "lower=-9)", "constraints:small"),
    ("devices that are not ours", "batch", "-max(0, standing[name])", "0", "constraints:small"),
    ("that a pod wants several", "batch", "-pod.mig_request[name] for", "-1 for", "constraints:small"),
    (
        "room in the batch",
        "batch",
        "self._draft.row(smaller, upper=max(0",
        "self._draft.row(smaller, upper=max(1 << 50",
        "constraints:small",
    ),
    ("number of pods in the batch", "batch", "asked[resources.PODS][column] = 1", "pass", "constraints:small"),
    (
        "other resources in the batch",
        "batch",
        "if value > 0 and not",
        "if name in resources.PODS and not",
        "constraints:small",
    ),
    (
        "host ports of alike pods",
        "batch",
        "{**everywhere, **weights}, upper=1)",
        "{**everywhere, **weights}, upper=2)",
        "constraints:small",
    ),
    ("host ports on all addresses", "batch", "{**everywhere, **weights}", "weights", "constraints:small"),
    ("that a group is not begun", "batch", "served: -needs[tag]}, lower=0)", "served: -1}, lower=0)", "together"),
    ("that a group counts once begun", "batch", "served: -most}, upper=0)", "served: -most}, upper=9)", "together"),
    ("priorities in the batch", "batch", "levels[-kinds[kind].sample.priority]", "levels[0]", "constraints:small"),
    ("what a priority was promised", "batch", "            solver.hold(level)\n", "", "constraints:small"),
    (
        "disturbance",
        "batch",
        "{column: -cost for column, cost in question.costs}",
        "{}",
        "constraints:small",
    ),
    (
        "nodes that are tainted already",
        "batch",
        "FRESH_COST if filling.changes and not tainted else 0",
        "0",
        "constraints:small",
    ),
    (
        "what goes for what is made",
        "batch",
        "room.free & ~room.in_the_way(filling.chosen) | filling.chosen",
        "room.free | filling.chosen",
        "constraints:small",
    ),
    # What is disturbed.
    ("free ones destroyed", "fillings", "DESTROYED * gone.bit_count() + ", "", "constraints:small"),
    ("instances made", "fillings", "MADE * made + _TOUCHED", "_TOUCHED", "constraints:small"),
    ("GPUs touched", "fillings", "MADE * made + _TOUCHED", "MADE * made - _TOUCHED", "constraints:GPU"),
    ("what is left is worth", "fillings", "cost = _WORTH * lost", "cost = 0", "constraints:small"),
    ("that large profiles are worth more", "grid", "size * size * sum(", "sum(", "traps"),
    (
        "free ones destroyed, pod by pod",
        "rooms",
        "destroyed + (gone.bit_count() if step.make else 0)",
        "destroyed",
        "constraints:singly",
    ),
    (
        "what is left, pod by pod",
        "rooms",
        "lost = self._worth - sum(gpu.worth for gpu in self._room.gpus)",
        "lost = 0",
        "constraints:singly",
    ),
    (
        "all that one pod wants",
        "rooms",
        "for resource, count in pod.mig_request.items() for _ in range(count)]",
        "for resource in pod.mig_request]",
        "constraints",
    ),
    # Who is alike.
    (
        "alike: selectors",
        "kinds",
        "return pod.priority, devices, selector, pod",
        "return pod.priority, devices, pod",
        "constraints",
    ),
    (
        "alike: affinity",
        "kinds",
        "selector, pod.node_affinity, pod.tolerations",
        "selector, pod.tolerations",
        "constraints",
    ),
    (
        "alike: tolerations",
        "kinds",
        "selector, pod.node_affinity, pod.tolerations",
        "selector, pod.node_affinity",
        "constraints",
    ),
    (
        "alike: ports",
        "kinds",
        "pod.tolerations, pod.host_ports\n\n\ndef kinds_of",
        "pod.tolerations\n\n\ndef kinds_of",
        "constraints",
    ),
    ("alike: priority", "kinds", "return pod.priority, devices, selector", "return devices, selector", "constraints"),
    ("alike: requests", "kinds", "(*shape(pod), tuple(sorted(pod.request.items())))", "shape(pod)", "constraints"),
    # Large clusters.
    (
        "room on nodes of large clusters",
        "deal",
        "            if free.get(name, 0) < value:\n                return False\n        sample",
        "            pass\n        sample",
        "constraints:large",
    ),
    (
        "what is taken of large clusters' nodes",
        "deal",
        "            free[name] -= value\n",
        "            pass\n",
        "constraints:large",
    ),
    (
        "host ports in large clusters",
        "deal",
        "return not sample.host_ports or not fit.ports_taken(",
        "return not fit.ports_taken(sample, []) or fit.ports_taken(",
        "constraints:large",
    ),
    (
        "bound pods' ports in large clusters",
        "deal",
        "[*room.bound, *room.given, *self._ports[id(room)]]",
        "self._ports[id(room)]",
        "constraints:large",
    ),
    (
        "ports given in large clusters",
        "deal",
        "[*room.bound, *room.given, *self._ports[id(room)]]",
        "room.bound",
        "constraints:large",
    ),
    (
        "what GPUs hold",
        "cards",
        "        if load not in state.table:\n            return None\n",
        "        if load not in state.table:\n            load = state.load\n",
        "constraints:large",
    ),
    (
        "all that one pod wants of large clusters",
        "deal",
        "for name in ranked for _ in range(devices[name])]",
        "for name in ranked]",
        "constraints:large",
    ),
    ("who suits large clusters' nodes", "sites", "if not refusals[shape] and all(", "if all(", "constraints:large"),
    (
        "who goes for large clusters' pods",
        "deal",
        "grid.gone(state.table.kept, state.free, chosen) | chosen",
        "chosen",
        "constraints:large",
    ),
    (
        "large clusters: tainted already",
        "cards",
        "FRESH_COST if chosen & ~free and not self._tainted[site] else 0",
        "0",
        "constraints:large",
    ),
    (
        "large clusters: the highest priority first",
        "mixture",
        "ranked = sorted(levels, reverse=True)",
        "ranked = sorted(levels)",
        "constraints:large",
    ),
    (
        "room of those who change places",
        "deal",
        "if any(beyond.get(name, 0) < value or here.get(name, 0) < -value for name, value in more.items() if value):",
        "if False:",
        "wide:changes_places",
    ),
    (
        "what those take who change places",
        "deal",
        "            beyond[name] = beyond.get(name, 0) - value\n",
        "            pass\n",
        "wide:changes_places",
    ),
    (
        "as things are, before any change",
        "batch",
        "if question.changes:",
        "if False:",
        "partition_solver:nothing_changes",
    ),
    (
        "large clusters: as things are, before any change",
        "wide",
        "if everybody and not deal.makes:",
        "if everybody:",
        "wide:nothing_changes",
    ),
    (
        "large clusters: who goes together as things are",
        "anew",
        "        deal.take_back(rooms)\n",
        "",
        "wide:nothing_changes",
    ),
    (
        "few pods: as things are, before any change",
        "wide",
        "if served.makes or deal.makes:",
        "if False:",
        "near:change_nothing",
    ),
    ("what exists costs less than what is made", "fillings", "MADE: Final = 600", "MADE: Final = 400", "wide:exists"),
    (
        "room on nodes that are not ours",
        "wide",
        "room.suits(pod) and room.option",
        "room.option",
        "constraints:large",
    ),
    (
        "all that one pod wants of nodes that are not ours",
        "rooms",
        "if all(self.unmanaged[name] >= count",
        "if all(self.unmanaged[name] >= 1",
        "constraints:devices",
    ),
    # Groups.
    ("groups", "groups", "if need > 1}", "if False}", "together"),
    ("a group's least number", "groups", "least(pods, jobs.get(group, 0)) - sum", "2 - sum", "together"),
    ("that all of a group may be needed", "groups", " or len(pods)\n", " or 2\n", "together"),
    ("that bound members count", "groups", "bool(pod.node) or not pod.mig_request", "not pod.mig_request", "together"),
    (
        "that members without devices count",
        "groups",
        "bool(pod.node) or not pod.mig_request",
        "bool(pod.node)",
        "together",
    ),
    (
        "who belongs to a group",
        "groups",
        "if pod.group and not (pod.ended or pod.terminating or pod.gated):",
        "if pod.group:",
        "together",
    ),
    (
        "that a group grows old together",
        "groups",
        "self._first.get(pod.group, pod.created)",
        "pod.created",
        "together",
    ),
    ("that groups are not halved", "partition", "        self._mend(open_)\n", "", "together"),
    ("who stood on those taken back", "partition", "            self._support()\n", "", "together"),
    (
        "that others get what halved groups had",
        "partition",
        "        if not self._freed:\n",
        "        if True:\n",
        "together",
    ),
    ("what was to go for nothing", "partition", "            room.restore()\n", "            pass\n", "together"),
    # What other pods mean.
    ("affinity", "neighbours", "            return AFFINITY\n", "            pass\n", "neighbours"),
    ("anti-affinity", "neighbours", "            return ANTI_AFFINITY\n", "            pass\n", "neighbours"),
    (
        "others' anti-affinity",
        "neighbours",
        "            return OTHERS_ANTI_AFFINITY\n",
        "            pass\n",
        "neighbours",
    ),
    (
        "spread",
        "neighbours",
        "self.counts_itself - least <= self.constraint.max_skew",
        "0 <= self.constraint.max_skew",
        "neighbours",
    ),
    (
        "least number of domains",
        "neighbours",
        "if self.spread.domains >= self.constraint.min_domains else 0",
        "",
        "neighbours",
    ),
    ("that who goes is not spread", "neighbours", "if not pod.terminating:  #", "if True:  #", "neighbours"),
    ("domains that count", "neighbours", "fit.selected(pod, node))", "node)", "neighbours"),
    ("namespaces", "neighbours", "return there and self.selector", "return self.selector", "neighbours"),
    (
        "pods that are placed",
        "partition",
        "            self._neighbours.place(pod, room.node.name)\n",
        "            pass\n",
        "together",
    ),
    (
        "neighbours of pods served apart",
        "partition",
        "room.node.name in avoided or self._neighbours.refusal(pod, room.node.name):",
        "room.node.name in avoided:",
        "together",
    ),
    ("what is taken back", "partition", "    planning.withdraw()\n", "", "together"),
    (
        "who is apart",
        "partition",
        "not self._neighbours.bystander(pod) or pod.key in self._avoided}",
        "pod.key in self._avoided}",
        "together",
    ),
    ("trying again once others stand", "partition", "if len(left) in {0, before}:", "if True:", "together"),
    # Who may be bound at any moment.
    (
        "pods that may be bound",
        "partition",
        "if not pod.unschedulable or (held and pod.key in held)]",
        "if False]",
        "constraints",
    ),
    (
        "that pods may be bound",
        "partition",
        "open_ = [pod for pod in waiting if pod.unschedulable and",
        "open_ = [pod for pod in waiting if",
        "constraints",
    ),
    (
        "what is kept under the taint",
        "partition",
        "    _keep_for_holders(rooms, waiting)\n",
        "",
        "constraints:taint",
    ),
    ("nominated pods under the taint", "partition", "pod.nominated == room.node.name or ", "", "constraints:taint"),
    (
        "tolerant pods under the taint",
        "partition",
        "pod.nominated == room.node.name or pod.key in tolerant:",
        "pod.nominated == room.node.name:",
        "constraints:taint",
    ),
    (
        "where holders may go",
        "rooms",
        "        if not fit.unsuitable(pod, self.node):\n            wanted",
        "        if True:\n            wanted",
        "constraints:taint",
    ),
    (
        "holders that are served elsewhere",
        "partition",
        "                room.hold(pod)\n",
        "                pass\n",
        "constraints:taint",
    ),
    # Overdue.
    (
        "how long a pod may fit",
        "overdue",
        "fitting.get(pod.key, 0.0) >= OVERDUE_SECONDS",
        "fitting.get(pod.key, 0.0) >= 0",
        "overdue",
    ),
    ("that overdue pods fit", "overdue", "room.option(pod, change=False) is not None", "True", "overdue"),
    ("neighbours of overdue pods", "overdue", " and not neighbours.refusal(pod, room.node.name)\n", "\n", "overdue"),
    (
        "that overdue pods keep nothing",
        "partition",
        "waiting = [pod for pod in waiting if pod.key not in late or late[pod.key].elsewhere]",
        "pass",
        "overdue",
    ),
    ("where overdue pods are not bound", "partition", "room.node.name in avoided or ", "", "loop"),
    # Same in, same out.
    (
        "order of nodes",
        "partition",
        "nodes = sorted(snapshot.nodes, key=lambda node: node.name)",
        "nodes = list(snapshot.nodes)",
        "constraints",
    ),
    # Which nodes few pods need.
    ("that nodes are taken", "near", "if name not in taken:", "if True:", "near"),
    ("what few pods ask for", "near", "room.free.get(resource, 0) < value:", "False:", "near:cheapest"),
    ("how many instances a GPU gives", "near", "chosen.bit_count()))", "9))", "near:gives_them_all"),
    ("that own nodes are not contested", "near", "if own.isdisjoint(contested):", "if True:", "near:contested"),
    # Room that others leave.
    ("that holds end", "holds", "if hold.seconds >= HOLD_SECONDS", "if False", "admission:hold"),
    ("that reclaims rest", "holds", "hold.seconds >= REST_SECONDS[hold.tries - 1]", "True", "admission:hold"),
    ("that others would have to go", "holds", "if hold.tries < MOST_TRIES or", "if True or", "admission:hold"),
    ("what the scheduler binds at once", "evicting", "self._as_it_is.has_room(pod)", "False", "admission:at_once"),
    # Whom to evict.
    ("that groups go whole", "reclaim", "_Bundle(members, tuple(", "_Bundle(members[:1], tuple(", "admission:group"),
    (
        "that the newest go",
        "reclaim",
        "local.sort(key=lambda v: (_frees(v, lacked), v.newest))",
        "local.sort(key=lambda v: v.newest[1])",
        "reclaim:alike or never",
    ),
    ("what is cheaper", "combine", "if cheaper(both, new.get(key)):", "if True:", "reclaim:gpus or never or alike"),
    ("what smaller sets do", "combine", "each.pods) < size and", "each.pods) <= size or", "reclaim:gpus or never"),
    (
        "that steps are shared",
        "evicting",
        "cheapest(case, self._steps)",
        "cheapest(case, Steps(MOST_STEPS))",
        "reclaim:share",
    ),
    (
        "what was evicted for",
        "admission",
        "if not robbed:",
        "if True:",
        "admission_rest:2955",
    ),
    ("room of one whose quota waits", "housing", "waits or not may or node", "waits or node", "admission:free_room"),
    ("who is kept out for longer", "evicting", "return None if late else found", "return found", "admission:longer"),
    (
        "who could evict back",
        "entitlement",
        "every=not ledger.over_min(quota)",
        "every=True",
        "reclaim:back",
    ),
    ("that evictions were in vain", "holds", "if new.vain > MOST_VAIN:", "if False:", "admission:too_often"),
    (
        "whom kube-scheduler would bind to kept room",
        "evicting",
        "if promise := self._kept.tempting(entry):",
        "if False:",
        "admission:keeps_its_gate",
    ),
    (
        "whom kube-scheduler would bind to kept room, with room elsewhere",
        "admission",
        "if promise := tempting.get(self._unit(entry)):",
        "if False:",
        "admission:keeps_its_gate",
    ),
    (
        "whom others have gone for",
        "waiting",
        "return self.tier, not self.held, self._order",
        "return self.tier, False, self._order",
        "admission:nobody_elses",
    ),
    (
        "that others are like one without room",
        "admission",
        "without |= self._alike(homeless, {entry.key for entry in accepted}, why)",
        "pass",
        "admission:is_lent",
    ),
    (
        "whose devices are not free yet",
        "ground",
        "leaving |= self._land.lingering.get(name, frozenset())",
        "pass",
        "admission:not_free_yet",
    ),
    (
        "few that wait",
        "admission",
        "max(MOST_PLANS, MOST_OF_FEW // max(1, len(self.waiting.gated)))",
        "MOST_PLANS",
        "admission:plans_of",
    ),
    ("evictions in vain", "holds", "gone=hold.gone and not others", "gone=False", "admission:in_vain"),
    ("that alike have turns", "admission", "if entry.turn < like.turn:", "if False:", "admission:keep_their_turns"),
    (
        "that a group waits for its last",
        "evicting",
        "shut = shut or not found.victims",
        "shut = shut or False",
        "admission:its_last",
    ),
    ("whose turn is before", "kept", " or promise.entry.rank >= entry.rank", "", "admission:robbed"),
    (
        "that groups go in together",
        "admission",
        "return entry.pod.group if entry.pod.group in self.waiting.needs else entry.key",
        "return entry.key",
        "admission:keeps_its_gates",
    ),
    (
        "the min of who keeps its gate",
        "evicting",
        "                self._books.charge(entry.quota, entry.request, summed=False)\n                return",
        "                return",
        "admission:keeps_its_min",
    ),
    (
        "that it is kept from who needs no device",
        "housing",
        "e.turn > entry.turn",
        "e.pod != entry.pod",
        "admission:displace",
    ),
    ("who is nominated", "housing", "sorted(due, key=lambda pod: not pod.nominated)", "due", "admission:by_name"),
    ("room without a nomination", "housing", " or pod.key in self._held", "", "admission:without_a_nomination"),
    ("who is yet to go", "ground", "pod.terminating or pod.key in self._due", "pod.terminating", "admission:yet_to_go"),
    ("that some have gone already", "evicting", "entry.held or not (", "not (", "admission:the_rest"),
    ("that a pod is not bound", "holds", " and hold.seconds >= OVERDUE_SECONDS)", " and False)", "admission:hold"),
    (
        "who is over-quota by others",
        "entitlement",
        "every=not ledger.over_min(quota)",
        "every=False",
        "reclaim:older",
    ),
]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as made:
        yield made


def test_nothing_is_noticed_where_nothing_is_forgotten(nursery: Nursery) -> None:
    files = sorted({row[-1].partition(":")[0] for row in MUTATIONS})
    name = "brain.decide.partition"
    text = source(name).read_text(encoding="utf-8")
    code, output = nursery.run(name, text, [f"tests/unit/decide/test_{file}.py" for file in files])
    assert code == 0, output


@pytest.mark.parametrize(
    ("module", "before", "after", "tests"), [row[1:] for row in MUTATIONS], ids=[row[0] for row in MUTATIONS]
)
def test_it_is_noticed(nursery: Nursery, module: str, before: str, after: str, tests: str) -> None:
    name = f"brain.decide.{module}"
    text = source(name).read_text(encoding="utf-8")
    assert text.count(before) == 1, f"the table is behind {name}: {before!r} is there {text.count(before)} times"
    file, _, words = tests.partition(":")
    code, output = nursery.run(name, text.replace(before, after), [f"tests/unit/decide/test_{file}.py", "-k", words])
    assert code == 1, f"{name} without {before!r} is not noticed: pytest ended with {code}\n{output}"
