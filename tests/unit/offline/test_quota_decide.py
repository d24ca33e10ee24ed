"""``n8s quota decide``: the worked cases, how files are read, and what is said of those that cannot be."""

from __future__ import annotations

import gzip
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from brain.offline import quotas
from brain.offline.__main__ import main
from n8s import names

FILE = Path(__file__).parents[2] / "data" / "quota_cases.json"
CASES = [case for case in json.loads(FILE.read_text())["cases"] if case["class"] != "informational"]


def namespaces(keys: list[str]) -> Counter[str]:
    return Counter(key.partition("/")[0] for key in keys)


def holds(case: dict[str, Any], found: dict[str, Any], field: str, expected: Any) -> bool:
    """Whether an answer is as expected in one field."""
    victims = found.get("victims", [])
    if field == "label_order":
        return [key.partition("/")[2] for key in found["labels"]] == list(expected)
    if field == "final_running_count":
        return namespaces(found["final_running"]) == Counter(expected)
    if field == "victims_count":
        return len(victims) == int(expected)
    if field == "victims_from_quota":
        (quota,) = (quota for quota in case["quotas"] if quota["name"] == expected)
        return set(namespaces(victims)) <= set(quota["namespaces"])
    if field == "freed_at_least":
        requests = {f"{pod['ns']}/{pod['name']}": pod["request"] for pod in case["running"]}
        return all(sum(requests[key].get(name, 0) for key in victims) >= least for name, least in expected.items())
    if isinstance(expected, dict):
        return all(_within(found[field].get(name), value) for name, value in expected.items())
    return bool(found[field] == expected)


def _within(found: Any, expected: Any) -> bool:
    return expected.items() <= found.items() if isinstance(expected, dict) else bool(found == expected)


EXPECTED = [(case, field, value) for case in CASES for field, value in case["expected"].items()]


@pytest.mark.parametrize(
    ("case", "field", "expected"), EXPECTED, ids=[f"{case['name']}: {field}" for case, field, _ in EXPECTED]
)
def test_the_worked_cases(case: dict[str, Any], field: str, expected: Any) -> None:
    assert holds(case, quotas.answer(case, "cases.json"), field, expected)


def run(capsys: pytest.CaptureFixture[str], *files: str) -> tuple[int, str, str]:
    code = main(["quota", "decide", *files])
    out = capsys.readouterr()
    return code, out.out, out.err


def small(**changes: Any) -> dict[str, Any]:
    """One quota of 1 CPU, of which 400 milli are used, and a pod that asks for 500 more."""
    quota = {"name": "q", "kind": "ElasticQuota", "namespaces": ["a"], "min": {"cpu": 1000}, "max": None}
    running = {"ns": "a", "name": "old", "request": {"cpu": 400}}
    pending = {"ns": "a", "name": "new", "request": {"cpu": 500}, "created": 1}
    return {"name": "small", "quotas": [quota], "running": [running], "pending": pending} | changes


ANSWER = {
    "name": "small",
    "labels": {"a/old": "in-quota"},
    "used": {"q": {"cpu": 400}},
    "guaranteed_overquota": {"q": {"cpu": 600}},
    "available_overquota": {"cpu": 600},
    "admitted": True,
    "victims": [],
}


def test_the_command_answers_every_case_with_what_applies_to_its_kind(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, str(FILE))
    assert (code, err) == (0, "")
    answers = {answer["name"]: answer for answer in map(json.loads, out.splitlines())}
    cases = json.loads(FILE.read_text())["cases"]
    assert list(answers) == [case["name"] for case in cases]
    for case in cases:
        fields = answers[case["name"]].keys()
        match case.get("kind"):
            case "webhook":
                assert {"name", "allowed"} <= fields <= {"name", "allowed", "message", "kept_quotas", "superseded"}
            case "request":
                assert fields == {"name", "request", "gpu_memory"}
            case _:
                assert fields >= {"name", "used", "guaranteed_overquota", "available_overquota"}
                assert ("admitted" in fields) is ("pending" in case)
                assert ("final_running" in fields) is ("pending_sequence" in case)
                assert fields.isdisjoint({"allowed", "request", "gpu_memory"})


def test_one_question_packed_by_line_and_from_standard_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = tmp_path / "one.json"
    one.write_text(json.dumps(small(), indent=2))
    code, out, _ = run(capsys, str(one))
    assert (code, json.loads(out)) == (0, ANSWER)
    text = f"{json.dumps(small())}\n\n{json.dumps(small(name='other'))}\n"
    for name in ("lines.jsonl.gz", "lines.json.gz"):
        packed = tmp_path / name
        packed.write_bytes(gzip.compress(text.encode()))
        code, out, _ = run(capsys, str(one), str(packed))
        assert [json.loads(line)["name"] for line in out.splitlines()] == ["small", "small", "other"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    code, out, _ = run(capsys, "-")
    assert [json.loads(line)["name"] for line in out.splitlines()] == ["small", "other"]


def test_whole_numbers_are_milli_cpu_and_texts_kubernetes_quantities() -> None:
    quota = small()["quotas"][0] | {"min": {"cpu": "1", "memory": "8Gi"}}
    running = {"ns": "a", "name": "old", "request": {"cpu": "400m", "memory": 1024}}
    found = quotas.answer(small(quotas=[quota], running=[running]), "x")
    assert found["used"] == {"q": {"cpu": 400, "memory": 1024}}
    assert found["available_overquota"] == {"cpu": 600, "memory": (8 << 30) - 1024}


# (what it shows, input, request)
INPUTS: list[tuple[str, dict[str, Any], dict[str, int]]] = [
    ("a whole GPU counts 16", {"resources": {"nvidia.com/gpu": 1}}, {"nvidia.com/gpu": 1, names.GPU_MEMORY: 16}),
    (
        "suffixes of profiles",
        {"resources": {"nvidia.com/mig-1g.10gb.me": 2}},
        {"nvidia.com/mig-1g.10gb.me": 2, names.GPU_MEMORY: 20},
    ),
    ("overhead", {"containers": [{"requests": {"cpu": "1"}}], "overhead": {"cpu": "250m"}}, {"cpu": 1250}),
    (
        "a sidecar and an init container beside it",
        {
            "containers": [{"requests": {"cpu": 100}}],
            "initContainers": [
                {"requests": {"cpu": 300}, "restartPolicy": "Always"},
                {"requests": {"cpu": 200}},
            ],
        },
        {"cpu": 500},
    ),
    (
        "spelt otherwise",
        {
            "init_containers": [{"requests": {"cpu": 300}, "restart_policy": "Always"}],
            "containers": [{"limits": {"cpu": 5}}],
        },
        {"cpu": 305},
    ),
    (
        "as Kubernetes nests it",
        {"containers": [{"name": "c", "resources": {"requests": {"cpu": "2"}, "limits": {"nvidia.com/gpu": "1"}}}]},
        {"cpu": 2000, "nvidia.com/gpu": 1, names.GPU_MEMORY: 16},
    ),
    ("amounts at once", {"cpu": 100, "nvidia.com/gpu": 1.0}, {"cpu": 100, "nvidia.com/gpu": 1, names.GPU_MEMORY: 16}),
    (
        "containers that name amounts at once",
        {"containers": [{"cpu": 100, "name": "a"}, {"cpu": 200}], "init_containers": [{"cpu": 250}]},
        {"cpu": 300},
    ),
    ("overhead on top of what is asked for in all", {"resources": {"cpu": 100}, "overhead": {"cpu": 50}}, {"cpu": 150}),
    (
        "requests and limits in all",
        {"resources": {"requests": {"cpu": 1}, "limits": {"cpu": 9, "memory": 5}}},
        {"cpu": 1, "memory": 5},
    ),
    (
        "sidecars by themselves start before init containers",
        {"containers": [{"cpu": 100}], "sidecars": [{"resources": {"cpu": 50}}], "initContainers": [{"cpu": 120}]},
        {"cpu": 170},
    ),
    (
        "a pod's spec, with what it asks for as a whole",
        {
            "metadata": {"name": "p"},
            "spec": {
                "nodeSelector": {"a": "b"},
                "resources": {"requests": {"cpu": "2"}},
                "containers": [{"image": "i", "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1Ki"}}}],
                "overhead": {"cpu": "250m"},
            },
        },
        {"cpu": 2250, "memory": 1024},
    ),
]


@pytest.mark.parametrize(("given", "expected"), [row[1:] for row in INPUTS], ids=[row[0] for row in INPUTS])
def test_requests(given: dict[str, Any], expected: dict[str, int]) -> None:
    found = quotas.answer({"name": "r", "kind": "request", "input": given}, "x")
    assert (found["request"], found["gpu_memory"]) == (expected, expected.get(names.GPU_MEMORY, 0))


def test_a_pod_may_say_by_container_what_it_asks_for() -> None:
    pending = {"namespace": "a", "name": "new", "containers": [{"cpu": 300}], "sidecars": [{"cpu": 250}]}
    assert quotas.answer(small(pending=pending | {"overhead": {"cpu": 50}}), "x")["admitted"] is True
    assert quotas.answer(small(pending=pending | {"overhead": {"cpu": 51}}), "x")["admitted"] is False
    both = {"ns": "a", "name": "new", "request": {"cpu": 500}, "overhead": {"cpu": 101}}
    assert quotas.answer(small(pending=both), "x")["admitted"] is False


def within(**changes: Any) -> str:
    return json.dumps({"semantics": {}, "cases": [small(), small(**changes)]})


# (what is wrong, the file, what is said)
BAD = [
    ("not JSON", "name: small", "is not JSON: "),
    ("empty", " ", "is empty"),
    ("a list", "[]", "Expected `object`, got `array`"),
    ("cases", '{"cases": {}}', "$.cases: expected a list of questions"),
    ("no name", "{}", "Object missing required field `name`"),
    ("a pod without a namespace", within(pending={"name": "p", "request": {}}), "$.cases[1].pending: Object missing"),
    ("a kind", within(quotas=[{"name": "q", "kind": "Quota", "namespaces": ["a"]}]), "$.cases[1].quotas[0].kind: "),
    (
        "a quantity",
        within(running=[{"ns": "a", "name": "p", "request": {"cpu": "much"}}]),
        "$.cases[1].running[0].request: cpu: 'much' is not a Kubernetes quantity such as 2, 500m or 8Gi",
    ),
    (
        "half a device",
        within(nodes=[{"name": "n", "allocatable": {"nvidia.com/gpu": 0.5}}]),
        "$.cases[1].nodes[0].allocatable: nvidia.com/gpu: 0.5 is no amount: expected a whole number",
    ),
    (
        "less than nothing",
        within(pending={"ns": "a", "name": "p", "request": {"cpu": -1}}),
        "$.cases[1].pending.request: cpu: -1 is negative",
    ),
    (
        "no amounts",
        within(pending={"ns": "a", "name": "p", "request": 3}),
        "request: expected amounts by resource, or containers, got 3",
    ),
    ("a GPU's memory", within(gpu_memory_gb=-1), "$.cases[1].gpu_memory_gb: Expected `int` >= 0"),
    ("a field misspelt", within(pendng={}), "$.cases[1].pendng: no such field; is pending meant?"),
    ("a request of nothing", within(kind="request"), "$.cases[1]: is of kind request, so input is expected"),
    ("a quota that is not there", within(used_override={"p": {}}), "$.cases[1].used_override.p: no such quota"),
    ("two of one name", within(running=[small()["pending"]] * 2), "$.cases[1].running[1]: another one is named a/new"),
    (
        "half a device as a text",
        within(running=[{"ns": "a", "name": "p", "request": {"nvidia.com/gpu": "500m"}}]),
        "$.cases[1].running[0].request: nvidia.com/gpu: 500m must be a whole number",
    ),
    (
        "a quantity of a container",
        within(kind="request", input={"containers": [{}, {"resources": {"limits": {"cpu": "much"}}}]}),
        "case 'small': $.cases[1].input: containers[1].resources.limits: cpu: 'much' is not a Kubernetes quantity",
    ),
    (
        "amounts in a field that is not known",
        within(kind="request", input={"containers": [{"asks": {"cpu": 1}}]}),
        "input: containers[0]: asks: {'cpu': 1} is no amount",
    ),
    (
        "a field of a container misspelt",
        within(kind="request", input={"containers": [{"requets": {"cpu": 1}}]}),
        "input: containers[0].requets: no such field; is requests meant?",
    ),
    (
        "a device beside containers",
        within(kind="request", input={"containers": [{"cpu": 1}], "resources": {"nvidia.com/gpu": 1}}),
        "input: nvidia.com/gpu: with containers beside it, expected within one of them",
    ),
    (
        "an amount that is there twice",
        within(kind="request", input={"containers": [{"cpu": 1, "requests": {"cpu": 1}}]}),
        "input: containers[0].requests: cpu is there twice",
    ),
    (
        "amounts beside a spec",
        within(input={"spec": {}, "overhead": {"cpu": 1}}),
        "input: overhead: with spec beside it",
    ),
    (
        "a pod's field misspelt",
        within(running=[small()["pending"] | {"prioritiy": 1}]),
        "running[0].prioritiy: no such field",
    ),
    ("a kind misspelt", within(kind="webhok"), "$.cases[1].kind: no such kind of question; is webhook meant?"),
    ("one pod and several", within(pending_sequence=[]), "$.cases[1].pending_sequence: pending is there as well"),
    (
        "a quota's amounts",
        within(quotas=[small()["quotas"][0] | {"max": {"cpu": 0.5}}]),
        "$.cases[1].quotas[0].max: cpu: 0.5 is no amount",
    ),
    (
        "one quota twice",
        within(quotas=small()["quotas"] * 2),
        "quotas[1]: another one is named ElasticQuota a/q as well",
    ),
    (
        "an ElasticQuota of two namespaces",
        within(quotas=[small()["quotas"][0] | {"namespaces": ["a", "b"]}]),
        "$.cases[1].quotas[0].namespaces: an ElasticQuota governs its own namespace only",
    ),
    (
        "totals of one of two quotas",
        within(quotas=[small()["quotas"][0] | {"namespaces": [ns]} for ns in "ab"], used_override={"q": {}}),
        "$.cases[1].used_override.q: no such quota; expected one of ['a/q', 'b/q']",
    ),
    (
        "what is done",
        within(object=small()["quotas"][0], operation="PATCH"),
        ".operation: 'PATCH' is none: expected CREATE",
    ),
    ("a line", json.dumps(small()) + "\n{}", "line 2: Object missing required field `name`"),
]


@pytest.mark.parametrize(("text", "said"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_input(text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.json"
    file.write_text(text)
    code, _, err = run(capsys, str(file))
    assert code == 2
    assert err.startswith(f"n8s quota decide: {file}")
    assert said in err


def test_what_can_be_read_is_answered_whatever_else_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases, lines = tmp_path / "cases.json", tmp_path / "lines.jsonl"
    cases.write_text(json.dumps({"cases": [small(name="one"), small(name="two", pending=3), small(name="three")]}))
    lines.write_text(f"{{\n{json.dumps(small(name='four'))}\n")
    code, out, err = run(capsys, str(tmp_path / "none"), str(cases), str(lines))
    assert code == 2
    assert [json.loads(line)["name"] for line in out.splitlines()] == ["one", "three", "four"]
    missing, case, line = err.splitlines()
    assert "none: cannot be read" in missing
    assert case.startswith(f"n8s quota decide: {cases}, case 'two': $.cases[1].pending: ")
    assert line.startswith(f"n8s quota decide: {lines}, line 1: is not JSON")


def single(name: str, namespace: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": "ElasticQuota", "namespaces": [namespace], "min": {"cpu": 1000}} | more


def composite(name: str, *namespaces: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": "CompositeElasticQuota", "namespaces": [*namespaces], "min": {"cpu": 1000}} | more


# (what it shows, operation, quotas that exist, the one that is written, what is said; None: it is allowed)
WRITES: list[tuple[str, str, list[dict[str, Any]], dict[str, Any], str | None]] = [
    ("another name in the namespace", "CREATE", [single("q", "a")], single("r", "a"), "namespace a already has"),
    (
        "the same name in the namespace",
        "CREATE",
        [single("q", "a")],
        single("q", "a"),
        "ElasticQuota a/q exists already",
    ),
    ("the same name elsewhere", "CREATE", [single("q", "a")], single("q", "b"), None),
    ("a composite's first namespace changes", "UPDATE", [composite("c", "a", "b")], composite("c", "b", "x"), None),
    ("its order changes", "UPDATE", [composite("c", "a", "b")], composite("c", "b", "a"), None),
    (
        "a composite of that name elsewhere",
        "UPDATE",
        [composite("c", "a", namespace="x"), composite("c", "b", namespace="y")],
        composite("c", "b", "a", namespace="y"),
        "namespace a is governed by CompositeElasticQuota x/c",
    ),
    ("a second one, unchanged", "UPDATE", [single("q", "a"), single("r", "a")], single("r", "a"), None),
    (
        "a second one, changed",
        "UPDATE",
        [single("q", "a"), single("r", "a")],
        single("r", "a", min={"cpu": 1}),
        "already has",
    ),
    ("under a composite, unchanged", "UPDATE", [composite("c", "a"), single("q", "a")], single("q", "a"), None),
    ("wrong before, unchanged", "UPDATE", [single("q", "a", max={"cpu": 1})], single("q", "a", max={"cpu": 1}), None),
    ("being deleted", "UPDATE", [single("q", "a")], single("q", "a", min={}, deletionTimestamp="now"), None),
    ("deleted", "DELETE", [single("q", "a"), single("r", "a")], single("r", "a"), None),
    ("half a device", "CREATE", [], single("q", "a", min={names.GPU: "500m"}), "500m must be a whole number"),
    ("half a device as a number", "CREATE", [], single("q", "a", min={names.GPU: 0.5}), "0.5 must be a whole number"),
    ("a CPU and a half as a number", "CREATE", [], single("q", "a", min={"cpu": 1.5}), "1.5: a number must be whole"),
    ("a CPU and a half", "CREATE", [], single("q", "a", min={"cpu": "1500m"}, max={"cpu": 1500.0}), None),
    ("one milli too much", "CREATE", [], single("q", "a", min={"cpu": "1501m"}, max={"cpu": 1500}), "which is 1500m"),
    ("half a GB", "CREATE", [], single("q", "a", min={names.GPU_MEMORY: "1500m"}), "1500m must be a whole number"),
    ("GPU memory in bytes", "CREATE", [], single("q", "a", min={names.GPU_MEMORY: "80Gi"}), "write 80, not 80Gi"),
    ("no min", "CREATE", [], single("q", "a", min={}, max={"cpu": 1}), "spec.min: name at least one resource"),
    ("a resource of no domain", "CREATE", [], single("q", "a", min={"gpu": 1}), "spec.min[gpu]: no pod can ask for it"),
    ("no quantity", "CREATE", [], single("q", "a", min={"cpu": "much"}), "spec.min[cpu]: 'much' is not a Kubernetes"),
    ("no amounts", "CREATE", [], single("q", "a", max=[]) | {"max": 3}, "spec.max: expected resource names"),
    ("less than nothing", "CREATE", [], single("q", "a", max={"cpu": -5}), "spec.max[cpu]: -5m is negative"),
    ("one of two namespaces", "CREATE", [], single("q", "a", namespaces=["a", "b"]), "governs its own namespace only"),
    ("no namespaces", "CREATE", [], composite("c"), "spec.namespaces: name at least one namespace"),
    ("a namespace twice", "CREATE", [], composite("c", "a", "b", "a"), "spec.namespaces: a is named twice"),
    ("no namespace's name", "CREATE", [], composite("c", "A"), "spec.namespaces: 'A' is no namespace"),
    ("too many", "CREATE", [], composite("c", *map(str, range(257))), "spec.namespaces: 257 are too many, 256 at most"),
]


@pytest.mark.parametrize(
    ("operation", "existing", "written", "said"), [row[1:] for row in WRITES], ids=[row[0] for row in WRITES]
)
def test_what_may_be_written(
    operation: str, existing: list[dict[str, Any]], written: dict[str, Any], said: str | None
) -> None:
    asked = {"name": "w", "kind": "webhook", "quotas": existing, "operation": operation, "object": written}
    found = quotas.answer(asked, "x")
    assert found["allowed"] is (said is None), found
    assert (said or "") in found.get("message", "")


def test_a_quota_that_is_deleted_lets_others_count() -> None:
    existing = [composite("c", "a", "b"), single("q", "a"), single("r", "b"), single("r", "z")]
    asked = {"name": "w", "kind": "webhook", "quotas": existing}
    changed = quotas.answer(asked | {"operation": "update", "object": composite("c", "b")}, "x")
    assert (changed["kept_quotas"], changed["superseded"]) == (["q", "z/r"], ["b/r"])
    gone = quotas.answer(asked | {"operation": "DELETE", "oldObject": existing[0]}, "x")
    assert (gone["kept_quotas"], gone["superseded"]) == (["b/r", "q", "z/r"], [])


def test_the_old_version_may_be_told_apart() -> None:
    asked = {"name": "w", "operation": "UPDATE", "object": single("q", "a", min={}), "quotas": []}
    assert quotas.answer(asked, "x")["allowed"] is False
    assert quotas.answer(asked | {"old_object": single("q", "a", min={})}, "x")["allowed"] is True


def test_quotas_of_one_name_are_told_apart_by_namespace() -> None:
    found = quotas.answer(small(quotas=[single("q", "a"), single("q", "b")], used_override={"b/q": {"cpu": 7}}), "x")
    assert found["used"] == {"a/q": {"cpu": 400}, "b/q": {"cpu": 7}}
    assert found["guaranteed_overquota"].keys() == found["used"].keys()


def test_a_quota_that_does_not_count_is_said_to() -> None:
    listed = [composite("c", "b"), single("q", "a", max={"cpu": 100}), single("r", "b"), single("s", "b")]
    found = quotas.answer(small(quotas=listed), "x")
    assert found["not_active"] == {
        "q": "Conflict: min[cpu]: 1000 is more than max[cpu], which is 100",
        "r": "Superseded: CompositeElasticQuota b/c governs namespace b",
        "s": "Superseded: CompositeElasticQuota b/c governs namespace b",
    }
    assert found["used"].keys() == {"c"}


@pytest.mark.parametrize(
    ("nominated", "admitted"),
    [
        pytest.param([500], False, id="within min it counts in the sum"),
        pytest.param([600, 600], True, id="beyond min with them none counts"),
        pytest.param([1001], True, id="beyond min by itself"),
    ],
)
def test_nominated_pods_count_for_others_while_their_quota_is_within_min(nominated: list[int], admitted: bool) -> None:
    let_in = [{"ns": "b", "name": f"n{i}", "request": {"cpu": cpu}} for i, cpu in enumerate(nominated)]
    pending = {"ns": "a", "name": "new", "request": {"cpu": 1101}}
    found = quotas.answer(small(quotas=[single("q", "a"), single("r", "b")], nominated=let_in, pending=pending), "x")
    assert found["admitted"] is admitted
    assert found["used"]["r"] == {"cpu": 0}


def test_a_nominated_pod_counts_in_its_own_quota_and_not_twice() -> None:
    let_in = [{"ns": "a", "name": "n", "request": {"cpu": 101}}]
    assert quotas.answer(small(nominated=let_in), "x")["admitted"] is False
    assert quotas.answer(small(nominated=[small()["pending"]]), "x")["admitted"] is True


def test_other_fields_are_left_alone() -> None:
    assert quotas.answer(small(source="here", note="x", lending_limit={"q": 1}, expected={}), "x") == ANSWER


def test_a_quota_without_namespaces_is_refused() -> None:
    written = {"name": "c", "kind": "CompositeElasticQuota", "namespaces": [], "min": {"cpu": 1}}
    found = quotas.answer({"name": "w", "kind": "webhook", "object": written}, "x")
    assert found["allowed"] is False
