"""Conversion between the wire contract and the model loses nothing."""

from __future__ import annotations

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from brain import wire
from brain.decide.partition import Plan
from brain.decide.standing import Explanation, Standing
from brain.decide.why import Help, Lack, Reason
from brain.model.mig import Gpu, Holder, Instance, InstanceState, Placement, Profile
from brain.model.node import Agent, Node, Taint
from brain.model.pod import Pod
from brain.model.quota import Kind, Quota, QuotaStatus
from n8s import names
from n8s.v1 import agent_pb2, gpu_pb2, inventory_pb2

small = st.integers(0, 12)
text = st.text(max_size=5)
profiles = st.builds(Profile, text, small, st.lists(small, max_size=3).map(tuple), small, small)
holders = st.builds(Holder, text, text, text)
instances = st.builds(
    Instance,
    text,
    small,
    small,
    st.sampled_from(InstanceState),
    text,
    small,
    st.none() | holders,
    st.lists(small, max_size=2).map(tuple),
)
gpus = st.builds(
    Gpu,
    small,
    text,
    small,
    st.lists(profiles, max_size=2).map(tuple),
    st.lists(instances, max_size=3, unique_by=lambda i: i.start).map(
        lambda listed: tuple(sorted(listed, key=lambda instance: instance.start))
    ),
    text,
    small,
    text,
    text,
)
geometries = st.dictionaries(
    small, st.lists(st.builds(Placement, small, text), max_size=3).map(lambda listed: tuple(sorted(listed))), max_size=3
)


@given(gpus)
def test_gpus_come_back_as_they_were(gpu: Gpu) -> None:
    sent = gpu_pb2.Gpu.FromString(wire.gpu_to(gpu).SerializeToString())
    assert wire.gpu_from(sent) == gpu


@given(geometries)
def test_geometries_come_back_as_they_were(wanted: dict[int, tuple[Placement, ...]]) -> None:
    assert wire.geometries_from(wire.geometries_to(wanted)) == wanted


@pytest.mark.parametrize("number", [0, 99])
def test_a_state_that_is_not_known_counts_as_unknown(number: int) -> None:
    message = gpu_pb2.Gpu.FromString(gpu_pb2.Gpu(instances=[gpu_pb2.Instance(size=1)]).SerializeToString())
    message.instances[0].state = number  # type: ignore[assignment]
    (instance,) = wire.gpu_from(message).instances
    assert instance.state is InstanceState.UNKNOWN
    assert instance.fixed


def test_every_outcome_has_a_word() -> None:
    assert set(wire.OUTCOMES) == set(agent_pb2.Outcome.values()) - {agent_pb2.OUTCOME_UNSPECIFIED}


def test_a_node() -> None:
    agent = Agent(
        connected=True,
        silent_seconds=1.5,
        gpus=(),
        problem="kubelet does not answer",
        ordered={1: (Placement(0, "7g.40gb"),)},
        version="1",
        driver="simulated",
    )
    labels = {names.AUTO_MIG_LABEL: "true"}
    shown = wire.node_to(Node("n", labels=labels, taints=(Taint(names.REPARTITIONING_TAINT),), agent=agent))
    assert (shown.name, shown.enabled, shown.repartitioning) == ("n", True, True)
    assert (shown.agent.silent_seconds, shown.agent.problem) == (1.5, "kubelet does not answer")
    assert wire.geometries_from(shown.ordered) == agent.ordered
    assert not wire.node_to(Node("n")).agent.connected


def test_an_explanation_is_told_in_full() -> None:
    reason = Reason("no room", later=True, lacks=(Lack("is small", 9, ("a", "b")),), helps=Help("a", "team/holder"))
    asked = Pod("team", "p", "uid", request={"cpu": 1, "nvidia.com/mig-1g.5gb": 2}, scheduler_message="0/9")
    explanation = Explanation(asked, Standing.WAITS, "no room", "n1", ((3, Placement(6, "1g.5gb")),), reason)
    plan = Plan(assigned={"a/b": "n1", "a/c": "n1"}, why={"team/p": reason}, bound=3)
    assert json_format.MessageToDict(wire.explanation_to(explanation, plan)) == {
        "namespace": "team",
        "name": "p",
        "devices": {"nvidia.com/mig-1g.5gb": 2},
        "standing": "POD_STANDING_WAITS",
        "text": "no room",
        "node": "n1",
        "placements": [{"index": 3, "placement": {"profile": "1g.5gb", "start": 6}}],
        "lacks": [{"text": "is small", "nodes": 9, "names": ["a", "b"]}],
        "wouldHelp": {"node": "a", "pod": "team/holder"},
        "deferred": True,
        "schedulerMessage": "0/9",
        "round": {"waiting": 3, "served": 2, "upperBound": 3},
    }


def test_an_explanation_tells_of_the_quota_what_the_pod_asks_for() -> None:
    least, most = {"cpu": 500, "nvidia.com/gpu": 1}, {"cpu": 2000, names.GPU_MEMORY: 9, "memory": 7}
    quota = Quota(Kind.SINGLE, "team", "q", ("team",), least, most, status=QuotaStatus(reserved={"cpu": 1500}))
    labels = {names.CAPACITY_LABEL: names.OVER_QUOTA}
    asked = Pod("team", "p", "u", request={"cpu": 1, "memory": 0, "nvidia.com/mig-1g.5gb": 1}, labels=labels)
    sent = wire.explanation_to(Explanation(asked, Standing.BOUND, "", quota=quota), Plan()).quota
    assert json_format.MessageToDict(sent) == {
        "kind": "ElasticQuota",
        "namespace": "team",
        "name": "q",
        "capacity": "over-quota",
        "uses": [
            {"resource": "cpu", "used": "1500m", "min": "500m", "max": "2"},
            {"resource": names.GPU_MEMORY, "used": "0", "max": "9"},
        ],
    }


@pytest.mark.parametrize("standing", Standing)
def test_each_standing_has_a_name_in_the_contract(standing: Standing) -> None:
    sent = wire.explanation_to(Explanation(Pod("a", "p", "u"), standing, ""), Plan())
    assert inventory_pb2.PodStanding.Name(sent.standing) == f"POD_STANDING_{standing.name}"
    assert not sent.HasField("would_help")
