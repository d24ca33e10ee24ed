"""The nodes file: what is read, and what an error says."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.local import config
from deploy.local.errors import ConfigError
from deploy.local.node import gpu_labels
from n8s import catalogue


def write(directory: Path, text: str) -> Path:
    path = directory / "nodes.yaml"
    path.write_text(text)
    return path


def test_the_default_has_three_nodes() -> None:
    nodes = config.load(inotify_instances=128)
    assert [(node.name, node.gpus and (node.gpus.model.key, node.gpus.count)) for node in nodes] == [
        ("n1", ("A100-40GB", 2)),
        ("n2", ("H100-80GB", 2)),
        ("n3", ("A30-24GB", 4)),
    ]


def test_a_node_without_gpus_and_a_model_by_product_name(tmp_path: Path) -> None:
    text = "nodes: [{name: plain}, {name: big, gpus: {model: NVIDIA-B200, count: 8}, statusSeconds: 0.5}]"
    plain, big = config.load(write(tmp_path, text))
    assert plain.gpus is None
    assert big.gpus is not None
    assert (big.gpus.model.key, big.gpus.count) == ("B200-180GB", 8)
    assert (plain.status_seconds, big.status_seconds) == (None, 0.5)


@pytest.mark.parametrize(
    ("text", "where", "problem"),
    [
        ("", "the document", "must be a mapping"),
        ("nodes: [", "nodes.yaml", "is not YAML"),
        ("{}", "nodes", "at least one node"),
        ("nodes: []", "nodes", "at least one node"),
        ("nodes: {}\nmore: 1", "more", "unknown"),
        ("nodes: [1]", "nodes[0]", "must be a mapping"),
        ("nodes: [{gpus: {model: A30, count: 1}}]", "nodes[0].name", "no node name"),
        ("nodes: [{name: A_B}]", "nodes[0].name", "no node name"),
        ("nodes: [{name: a}, {name: a}]", "nodes[1].name", "earlier node"),
        ("nodes: [{name: a, cpu: 4}]", "nodes[0].cpu", "unknown"),
        ("nodes: [{name: a, gpus: [{model: A30, count: 1}]}]", "nodes[0].gpus", "must be a mapping"),
        ("nodes: [{name: a, gpus: {model: V100, count: 1}}]", "nodes[0].gpus.model", "known are A30-24GB"),
        ("nodes: [{name: a, gpus: {model: A30, count: 0}}]", "nodes[0].gpus.count", "from 1 to 16"),
        ("nodes: [{name: a, gpus: {model: A30, count: true}}]", "nodes[0].gpus.count", "from 1 to 16"),
        ("nodes: [{name: a, statusSeconds: 0}]", "nodes[0].statusSeconds", "0 is not a number of seconds above 0"),
        ("nodes: [{name: a, statusSeconds: 1s}]", "nodes[0].statusSeconds", "'1s' is not a number"),
        ("nodes: [{name: a, gpus: {model: A30}}]", "nodes[0].gpus.count", "None is not a number"),
    ],
)
def test_an_error_names_the_place(tmp_path: Path, text: str, where: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(write(tmp_path, text), inotify_instances=128)
    assert caught.value.where.endswith(where)
    assert problem in caught.value.problem


def test_more_nodes_than_the_machine_bears(tmp_path: Path) -> None:
    text = "nodes: [" + ", ".join(f"{{name: n{number}}}" for number in range(21)) + "]"
    with pytest.raises(ConfigError, match="21 nodes; this machine bears 20"):
        config.load(write(tmp_path, text), inotify_instances=128)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(tmp_path / "absent.yaml")


def test_every_model_has_the_labels_of_gpu_feature_discovery() -> None:
    for model in catalogue.models().values():
        labels = gpu_labels(config.Gpus(model, 2))
        assert labels["nvidia.com/gpu.product"] == model.product_names[0]
        assert labels["nvidia.com/gpu.family"] in {"ampere", "hopper", "blackwell"}
        assert int(labels.get("nvidia.com/gpu.memory", "24000")) > 20_000
        assert (labels["nvidia.com/mig.strategy"], labels["nvidia.com/gpu.count"]) == ("mixed", "2")
