"""Who may speak to the brain, with tokens as the cluster's own API server makes them; and what strangers are told."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from n8s import client, names
from n8s.v1 import agent_pb2, agent_pb2_grpc, inventory_pb2, inventory_pb2_grpc
from tests.e2e.lab import NEBULNETES, Lab, pod

pytestmark = pytest.mark.e2e

AGENT = "nebulnetes-agent"
INVALID = "the token is not valid here: it has expired, was revoked, or is not for the audience n8s-brain"
UNAUTHENTICATED, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
Said = tuple[grpc.StatusCode, str]


class Strangers:
    """Calls to the brain with one token or another, and what came of them."""

    def __init__(self, lab: Lab, authorities: Path) -> None:
        self.lab = lab
        self._authorities = authorities.read_bytes()

    def token(self, account: str, namespace: str = NEBULNETES, *, pod: str = "", audience: str = "n8s-brain") -> str:
        """A token of a ServiceAccount, bound to a pod if one is named."""
        bound = ["--bound-object-kind", "Pod", "--bound-object-name", pod] if pod else []
        given = ["-n", namespace, *(["--audience", audience] if audience else []), *bound]
        return self.lab.cluster.kubectl("create", "token", account, *given).strip()

    def agent_of(self, node: str) -> str:
        """The name of the agent's pod on a node."""
        pods = self.lab.cluster.api.items("pods", namespace=NEBULNETES, fields=f"spec.nodeName={node}")
        (found,) = [each["metadata"]["name"] for each in pods if each["metadata"]["name"].startswith(AGENT)]
        return str(found)

    def lists(self, token: str) -> Said:
        """What the inventory says."""
        try:
            with self._channel(token) as channel:
                stub = inventory_pb2_grpc.InventoryServiceStub(channel)
                stub.ListGpus(inventory_pb2.ListGpusRequest(), timeout=20)
        except grpc.RpcError as error:
            return error.code(), str(error.details())
        return grpc.StatusCode.OK, ""

    def speaks(self, token: str, node: str) -> Said:
        """What the agents' service says to who claims to be the agent of a node, and reports that it has no GPU."""
        messages = [
            agent_pb2.AgentMessage(hello=agent_pb2.Hello(node=node, epoch=1_000_000)),
            agent_pb2.AgentMessage(state=agent_pb2.NodeState()),
        ]
        try:
            with self._channel(token) as channel:
                list(agent_pb2_grpc.AgentServiceStub(channel).Session(iter(messages), timeout=20))
        except grpc.RpcError as error:
            return error.code(), str(error.details())
        return grpc.StatusCode.OK, ""

    def _channel(self, token: str) -> grpc.Channel:
        trusting = grpc.ssl_channel_credentials(self._authorities)
        if token:
            trusting = grpc.composite_channel_credentials(trusting, grpc.access_token_call_credentials(token))
        return grpc.secure_channel(self.lab.brain, trusting)


@pytest.fixture
def strangers(lab: Lab, authorities: Path) -> Iterator[Strangers]:
    """Whatever they try, the agents' sessions stay as they were and the epoch does not rise."""
    lab.enable("a100", "h100")
    found = Strangers(lab, authorities)
    before = [lab.node(node) for node in ("a100", "h100")]
    yield found
    after = [lab.node(node) for node in ("a100", "h100")]
    assert [(node.agent.connected, len(node.gpus)) for node in after] == [
        (node.agent.connected, len(node.gpus)) for node in before
    ]
    lease = json.loads(lab.cluster.kubectl("get", "lease", "nebulnetes-brain", "-n", NEBULNETES, "-o", "json"))
    assert lease["spec"]["leaseTransitions"] < 1_000_000


def test_without_a_good_token_nobody_is_answered(lab: Lab, strangers: Strangers) -> None:
    agent = strangers.agent_of("a100")
    for token in (
        "not-a-token",
        strangers.token(AGENT, pod=agent, audience=""),  # for the API server
        strangers.token(AGENT, pod=agent, audience="other"),
        strangers.token(names.VIEWER_ACCOUNT, audience="other"),
        expired(lab, strangers.token(AGENT, pod=agent)),
    ):
        assert strangers.speaks(token, "a100") == (UNAUTHENTICATED, INVALID)
        assert strangers.lists(token) == (UNAUTHENTICATED, INVALID)
    for code, text in (strangers.speaks("", "a100"), strangers.lists("")):
        assert code is UNAUTHENTICATED
        assert text.startswith("the call has no token: send one for the audience n8s-brain")


def test_an_agent_speaks_for_its_own_node(strangers: Strangers) -> None:
    elsewhere = strangers.token(AGENT, pod=strangers.agent_of("h100"))
    assert strangers.speaks(elsewhere, "a100") == (
        DENIED,
        "the token is of an agent on node 'h100', and cannot speak for node 'a100'",
    )
    code, text = strangers.speaks(strangers.token(AGENT), "a100")
    assert code is DENIED
    assert text.startswith("the token names no node")


def test_another_account_on_the_same_node_is_refused(lab: Lab, strangers: Strangers, namespace: str) -> None:
    lab.create(namespace, pod("neighbour", node="a100"))
    lab.running(namespace, "neighbour")
    token = strangers.token("default", namespace, pod="neighbour")
    refused = (
        DENIED,
        f"system:serviceaccount:{namespace}:default is neither the agents' nor the viewers' ServiceAccount",
    )
    assert strangers.speaks(token, "a100") == refused
    assert strangers.lists(token) == refused


def test_agents_and_viewers_have_a_service_each(strangers: Strangers) -> None:
    viewer = strangers.token(names.VIEWER_ACCOUNT)
    assert strangers.lists(viewer)[0] is grpc.StatusCode.OK
    assert strangers.speaks(viewer, "a100") == (
        DENIED,
        "n8s.v1.AgentService is for the agents' ServiceAccount, and the token is of the viewers'",
    )
    assert strangers.lists(strangers.token(AGENT, pod=strangers.agent_of("a100"))) == (
        DENIED,
        "n8s.v1.InventoryService is for the viewers' ServiceAccount, and the token is of the agents'",
    )


def test_nothing_is_said_in_plain_text(lab: Lab) -> None:
    with grpc.insecure_channel(lab.brain) as channel, pytest.raises(grpc.RpcError) as caught:
        inventory_pb2_grpc.InventoryServiceStub(channel).ListGpus(inventory_pb2.ListGpusRequest(), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_who_may_not_have_a_token_is_told_so(lab: Lab) -> None:
    kubeconfig = lab.cluster.control_plane.authority.kubeconfig("ann", lab.cluster.control_plane.url, "ann")
    with pytest.raises(client.AccessError, match='User "ann" cannot get resource "configmaps"'):
        client.connect(lab.brain, kubeconfig=kubeconfig)
    binding = ["-n", NEBULNETES, "--role=nebulnetes-inventory-view", "--user=ann"]
    lab.cluster.kubectl("create", "rolebinding", "ann", *binding)
    try:
        with client.connect(lab.brain, kubeconfig=kubeconfig) as channel:
            stub = inventory_pb2_grpc.InventoryServiceStub(channel)
            assert stub.ListGpus(inventory_pb2.ListGpusRequest(), timeout=20).gpus
    finally:
        lab.cluster.kubectl("delete", "rolebinding", "ann", "-n", NEBULNETES)


def expired(lab: Lab, token: str) -> str:
    """A token like this one that ended an hour ago, signed with the cluster's own key."""
    header, claims, _ = token.split(".")
    content = json.loads(base64.urlsafe_b64decode(claims + "=="))
    now = int(time.time())
    content |= {"iat": now - 7200, "nbf": now - 7200, "exp": now - 3600}
    signed = f"{header}.{_encoded(json.dumps(content).encode())}"
    pem = (lab.cluster.state / "control-plane" / "pki" / "service-account.key").read_bytes()
    key = serialization.load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    first, second = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{_encoded(first.to_bytes(32, 'big') + second.to_bytes(32, 'big'))}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
