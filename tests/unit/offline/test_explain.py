"""``n8s explain``: what a person and a program see of an explanation, and what is said where there is none."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc
import pytest

from brain.offline.__main__ import main
from n8s.v1 import inventory_pb2
from n8s.v1.inventory_pb2 import ExplainPodRequest, NodeLack, PodExplanation, PodQuota, QuotaUse, Round, WouldHelp
from tests import tls

WAITS = PodExplanation(
    namespace="team",
    name="p",
    devices={"nvidia.com/mig-2g.10gb": 1, "nvidia.com/mig-1g.5gb": 2},
    standing=inventory_pb2.POD_STANDING_WAITS,
    text="no node has room",
    lacks=[
        NodeLack(text="has too little cpu", nodes=12, names=["n1", "n2", "n3"]),
        NodeLack(text="is cordoned", nodes=1, names=["n9"]),
    ],
    would_help=WouldHelp(node="n1", pod="team/holder"),
    deferred=True,
    scheduler_message="0/13 nodes are available",
    round=Round(waiting=9, served=5, upper_bound=7),
)
PAGE = """\
team/p waits
  asks for   2 1g.5gb, 1 2g.10gb
  nodes      12  has too little cpu  n1, n2, n3, …
              1  is cordoned         n9
  helps      node n1 would have room if team/holder ended
  soon       a node may serve it once it is done with the change under way
  scheduler  0/13 nodes are available
  all pods   9 waiting for MIG devices: 5 served, 4 left out; a better plan might serve 2 more, at most
"""
GATED = PodExplanation(
    namespace="team",
    name="gated",
    standing=inventory_pb2.POD_STANDING_GATED,
    text="waits: q uses 1 of max 1 cpu",
    quota=PodQuota(
        kind="ElasticQuota",
        namespace="team",
        name="q",
        uses=[QuotaUse(resource="cpu", used="1", min="500m", max="1"), QuotaUse(resource="memory", used="5", max="9")],
    ),
)
GATED_PAGE = """\
team/gated is gated
  state  waits: q uses 1 of max 1 cpu
  quota  ElasticQuota team/q
         uses 1 cpu; min 500m, max 1
         uses 5 memory; max 9
"""
BOUND = PodExplanation(
    namespace="team",
    name="bound",
    standing=inventory_pb2.POD_STANDING_BOUND,
    text="is bound to node n1",
    quota=PodQuota(kind="CompositeElasticQuota", namespace="x", name="c", capacity="over-quota"),
)
BOUND_PAGE = """\
team/bound is bound
  state  is bound to node n1
  quota  CompositeElasticQuota x/c: the pod is over-quota
         it names nothing that the pod asks for
"""
KNOWN = {explanation.name: explanation for explanation in (WAITS, GATED, BOUND)}


def explain(request: ExplainPodRequest, context: grpc.ServicerContext) -> PodExplanation:
    assert ("authorization", "Bearer of-a-viewer") in context.invocation_metadata()
    if request.namespace != "team" or request.name not in KNOWN:
        context.abort(grpc.StatusCode.NOT_FOUND, "saw no such pod")
    return KNOWN[request.name]


@contextmanager
def serving() -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    method = grpc.unary_unary_rpc_method_handler(
        explain, ExplainPodRequest.FromString, PodExplanation.SerializeToString
    )
    service = grpc.method_handlers_generic_handler("n8s.v1.InventoryService", {"ExplainPod": method})
    server.add_generic_rpc_handlers((service,))
    port = server.add_secure_port("127.0.0.1:0", tls.server())
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def run(capsys: pytest.CaptureFixture[str], key: str, brain: str, *more: str) -> tuple[int, str, str]:
    access = ["--token", "of-a-viewer", "--ca", str(tls.directory() / "ca.crt")]
    code = main(["explain", "pod", key, "--brain", brain, *access, *more])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.mark.parametrize(
    ("name", "page"),
    [
        pytest.param("p", PAGE, id="what nodes lack"),
        pytest.param("gated", GATED_PAGE, id="a pod without MIG devices that its quota holds back"),
        pytest.param("bound", BOUND_PAGE, id="a pod that runs"),
    ],
)
def test_a_person_sees_the_parts(capsys: pytest.CaptureFixture[str], name: str, page: str) -> None:
    with serving() as brain:
        code, out, err = run(capsys, f"team/{name}", brain)
    assert (code, err) == (0, "")
    assert out == page


def test_a_program_sees_all_fields(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as brain:
        code, out, _ = run(capsys, "team/p", brain, "--output", "json")
    answer = json.loads(out)
    assert code == 0
    assert set(answer) | {"quota"} == {field.name for field in PodExplanation.DESCRIPTOR.fields}
    assert answer["round"] == {"waiting": 9, "served": 5, "upper_bound": 7}
    assert answer["would_help"] == {"node": "n1", "pod": "team/holder"}


def test_a_pod_that_the_brain_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as brain:
        code, out, err = run(capsys, "team/q", brain)
    assert (code, out, err) == (1, "", f"n8s explain: the brain at {brain} says: saw no such pod\n")


def test_a_brain_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        brain = f"127.0.0.1:{taken.getsockname()[1]}"
        code, out, err = run(capsys, "team/p", brain)
    assert (code, out) == (1, "")
    assert err.startswith(f"n8s explain: the brain at {brain} gives no answer: ")


@pytest.mark.parametrize("key", ["p", "/p", "team/", "a/b/c"])
def test_a_name_without_a_namespace(capsys: pytest.CaptureFixture[str], key: str) -> None:
    with pytest.raises(SystemExit) as caught:
        run(capsys, key, "127.0.0.1:1")
    assert caught.value.code == 2
    assert f"{key!r} is not of the form NAMESPACE/NAME" in capsys.readouterr().err
