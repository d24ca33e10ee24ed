"""Which pods a disruption budget guards against eviction."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from brain.model.affinity import LabelSelector, Requirement
from brain.model.budget import Budget
from brain.model.pod import Pod
from n8s import names

APP = LabelSelector((Requirement("app", "In", ("x",)),))
POD = Pod("a", "p", "u", labels={"app": "x"}, phase="Running", node="n")


@pytest.mark.parametrize(
    ("selector", "changes", "guarded"),
    [
        (APP, {}, True),
        (LabelSelector(), {}, True),
        (None, {}, False),
        (APP, {"labels": {"app": "y"}}, False),
        (APP, {"namespace": "b"}, False),
        (APP, {"phase": "Pending"}, False),
        (APP, {"phase": "Failed"}, False),
        (APP, {"terminating": True}, False),
    ],
)
def test_which_pods_a_budget_guards(selector: LabelSelector | None, changes: dict[str, Any], guarded: bool) -> None:
    assert Budget("a", "b", selector, 0).guards(replace(POD, **changes)) == guarded


@pytest.mark.parametrize(("value", "protected"), [("false", True), ("true", False), ("", False), (None, False)])
def test_protected_pods(value: str | None, protected: bool) -> None:
    labels = {} if value is None else {names.PREEMPTIBLE_LABEL: value}
    assert replace(POD, labels=labels).protected == protected
