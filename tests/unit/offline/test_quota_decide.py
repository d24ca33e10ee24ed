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
]


@pytest.mark.parametrize(("given", "expected"), [row[1:] for row in INPUTS], ids=[row[0] for row in INPUTS])
def test_requests(given: dict[str, Any], expected: dict[str, int]) -> None:
    found = quotas.answer({"name": "r", "kind": "request", "input": given}, "x")
    assert (found["request"], found["gpu_memory"]) == (expected, expected.get(names.GPU_MEMORY, 0))


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
        "$.cases[1].running[0].request: 'much' is not a Kubernetes quantity such as 2, 500m or 8Gi",
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
        "request: expected amounts by resource, got 3",
    ),
    ("a GPU's memory", within(gpu_memory_gb=-1), "$.cases[1].gpu_memory_gb: Expected `int` >= 0"),
    ("a field misspelt", within(pendng={}), "$.cases[1].pendng: no such field; is pending meant?"),
    ("a request of nothing", within(kind="request"), "$.cases[1]: is of kind request, so input is expected"),
    ("a quota that is not there", within(used_override={"p": {}}), "$.cases[1].used_override.p: no such quota"),
    ("two of one name", within(running=[small()["pending"]] * 2), "$.cases[1].running[1]: another one is named a/new"),
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


def test_other_fields_are_left_alone() -> None:
    assert quotas.answer(small(source="here", note="x", lending_limit={"q": 1}, expected={}), "x") == ANSWER


def test_a_quota_without_namespaces_is_refused() -> None:
    written = {"name": "c", "kind": "CompositeElasticQuota", "namespaces": [], "min": {"cpu": 1}}
    found = quotas.answer({"name": "w", "kind": "webhook", "object": written}, "x")
    assert found["allowed"] is False
