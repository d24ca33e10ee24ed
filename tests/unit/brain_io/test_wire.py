"""Conversion between the wire contract and the model loses nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brain import wire
from brain.model.mig import Gpu, Holder, Instance, InstanceState, Placement, Profile
from brain.model.node import Agent, Node, Taint
from n8s import names
from n8s.v1 import agent_pb2, gpu_pb2

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
