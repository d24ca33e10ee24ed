"""The webhook as a program: over real TLS, with a stand-in API server behind it."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509

from n8s import names
from tests.component.webhook.standins import FakeApi, write_certificate
from tests.ports import free_port
from webhook import __main__ as program
from webhook import certificates
from webhook.config import Config
from webhook.errors import ConfigError


@dataclass
class Running:
    """A webhook that serves, and how a test talks to it."""

    api: FakeApi
    session: aiohttp.ClientSession
    url: str
    port: int
    tls_dir: Path
    task: asyncio.Task[None]
    stop: asyncio.Event

    async def review(self, kind: str, namespace: str, name: str, spec: Any = None, **request: Any) -> dict[str, Any]:
        """The response to a review of a quota's creation, or of what ``request`` says."""
        spec = {"min": {"cpu": 1}} | (spec or {})
        found = {"metadata": {"name": name, "namespace": namespace}, "spec": spec}
        content = {"uid": "u", "operation": "CREATE", "namespace": namespace, "name": name, "object": found, **request}
        document = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": content}
        async with self.session.post(f"{self.url}/validate/{kind.lower()}s", json=document) as response:
            assert response.status == 200, await response.text()
            answer: dict[str, Any] = (await response.json())["response"]
            return answer

    async def gate(self, **request: Any) -> dict[str, Any]:
        """The response to a review of a pod's creation."""
        content = {"uid": "u", "operation": "CREATE", "namespace": "x", **request}
        document = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": content}
        async with self.session.post(f"{self.url}/gate/pods", json=document) as response:
            assert response.status == 200, await response.text()
            answer: dict[str, Any] = (await response.json())["response"]
            return answer

    async def get(self, path: str) -> tuple[int, str]:
        async with self.session.get(self.url + path) as response:
            return response.status, await response.text()


@pytest.fixture
async def webhook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    monkeypatch.setattr(certificates, "LOOK_SECONDS", 0.02)
    api = FakeApi()
    async with api.serving(), serving(api, tmp_path) as running:
        yield running


@asynccontextmanager
async def serving(api: FakeApi, directory: Path, answer_seconds: float = 4.0) -> AsyncIterator[Running]:
    tls_dir = directory / "tls"
    tls_dir.mkdir()
    write_certificate(tls_dir, "first")
    port = free_port()
    settings = Config("127.0.0.1", port, tls_dir, api.kubeconfig(directory / "kubeconfig"), answer_seconds)
    stop = asyncio.Event()
    task = asyncio.create_task(program.run(settings, stop, drain_seconds=0.3))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as session:
        running = Running(api, session, f"https://127.0.0.1:{port}", port, tls_dir, task, stop)
        await until(sync(lambda: listens(port) or task.done()))
        try:
            yield running
        finally:
            stop.set()
            await asyncio.wait_for(task, 5)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def until(holds: Callable[[], Awaitable[bool]], seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not await holds():  # noqa: ASYNC110 - what is waited for is outside this program
            await asyncio.sleep(0.01)


def sync(holds: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        return holds()

    return ask


async def test_a_quota_passes_and_a_second_in_its_namespace_does_not(webhook: Running) -> None:
    assert await webhook.review("ElasticQuota", "x", "first") == {"uid": "u", "allowed": True}
    for number in range(5):
        webhook.api.add("ElasticQuota", f"y{number}", "elsewhere")
    webhook.api.add("ElasticQuota", "x", "first")
    refused = await webhook.review("ElasticQuota", "x", "second")
    assert refused["allowed"] is False
    assert refused["status"]["code"] == 403
    assert "ElasticQuota x/first" in refused["status"]["message"]


async def test_composites_on_later_pages_are_seen(webhook: Running) -> None:
    for number in range(5):
        webhook.api.add("CompositeElasticQuota", "admin", f"c{number}", namespaces=[f"n{number}"])
    refused = await webhook.review("ElasticQuota", "n4", "q")
    assert "CompositeElasticQuota admin/c4" in refused["status"]["message"]


async def test_a_composite_needs_the_right_in_each_namespace(webhook: Running) -> None:
    spec, ann = {"namespaces": ["x", "y", "z"]}, {"username": "ann", "uid": "7", "groups": ["g"], "extra": {"k": ["v"]}}
    webhook.api.rights = {("ann", "x"), ("ann", "z")}
    refused = await webhook.review("CompositeElasticQuota", "admin", "c", spec, userInfo=ann)
    assert "ann may not create ElasticQuotas in y;" in refused["status"]["message"]
    asked = webhook.api.reviews[-1]
    assert (asked["user"], asked["uid"], asked["groups"], asked["extra"]) == ("ann", "7", ["g"], {"k": ["v"]})
    assert asked["resourceAttributes"] == {
        "verb": "create",
        "group": "n8s.nebuly.ai",
        "resource": "elasticquotas",
        "namespace": asked["resourceAttributes"]["namespace"],
    }
    webhook.api.rights.add(("ann", "y"))
    assert (await webhook.review("CompositeElasticQuota", "admin", "c", spec, userInfo=ann))["allowed"] is True


async def test_a_composite_that_changes_needs_the_right_in_each_namespace_that_it_lists(webhook: Running) -> None:
    webhook.api.rights = {("ann", "y")}
    webhook.api.add("CompositeElasticQuota", "admin", "c", namespaces=["x"])

    async def update(*namespaces: str, **request: Any) -> dict[str, Any]:
        old = {"metadata": {"name": "c", "namespace": "admin"}, "spec": {"min": {"cpu": 9}, "namespaces": ["x"]}}
        change = {"operation": "UPDATE", "oldObject": old, "userInfo": {"username": "ann"}, **request}
        return await webhook.review("CompositeElasticQuota", "admin", "c", {"namespaces": [*namespaces]}, **change)

    told = "who writes a CompositeElasticQuota must be allowed to in each namespace that it lists"
    for listed, forbidden in ((("x",), "x"), (("x", "y"), "x"), (("y", "z", "w"), "z, w")):
        refused = await update(*listed)
        assert refused["status"]["message"] == f"ann may not create ElasticQuotas in {forbidden}; {told}"
    assert (await update("y"))["allowed"] is True
    webhook.api.rights.add(("ann", "x"))
    assert (await update("x", "y"))["allowed"] is True
    webhook.api.rights.clear()
    same = {"metadata": {"name": "c", "namespace": "admin"}, "spec": {"min": {"cpu": 1}, "namespaces": ["x"]}}
    assert (await update("x", oldObject=same))["allowed"] is True
    leaving = {"name": "c", "namespace": "admin", "deletionTimestamp": "2026-01-01T00:00:00Z"}
    going = {"metadata": leaving, "spec": {"min": {"cpu": 1}, "namespaces": ["z"]}}
    assert (await update("z", object=going))["allowed"] is True


GATE = {"name": names.QUOTA_GATE}
OTHER = {"name": "example.com/other"}


@pytest.mark.parametrize(
    ("spec", "gates"),
    [
        ({}, [GATE]),
        ({"schedulingGates": None}, [GATE]),
        ({"schedulingGates": []}, [GATE]),
        ({"schedulingGates": [OTHER]}, [OTHER, GATE]),
        ({"schedulingGates": [OTHER, GATE]}, [OTHER, GATE]),
    ],
)
async def test_a_pod_gets_the_gate_beside_those_it_has(
    webhook: Running, spec: dict[str, Any], gates: list[dict[str, str]]
) -> None:
    pod = {"metadata": {"generateName": "p-"}, "spec": {"containers": []} | spec}
    answer = await webhook.gate(object=pod)
    assert answer["allowed"] is True
    assert patched(pod, answer)["spec"] == {"containers": [], "schedulingGates": gates}
    outcome = "gated" if "patch" in answer else "allowed"
    assert f'n8s_webhook_reviews_total{{kind="Pod",outcome="{outcome}"}} 1.0' in (await webhook.get("/metrics"))[1]


async def test_pods_do_not_wait_for_the_api_server(webhook: Running) -> None:
    webhook.api.failing = 503
    assert "patch" in await webhook.gate(object={"metadata": {"name": "p"}, "spec": {}})
    assert await webhook.gate(object=None) == {"uid": "u", "allowed": True}


def patched(found: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """An object after the answer's JSON patch, which may add to ``spec`` or append to a list in it."""
    if "patch" not in answer:
        return found
    assert answer["patchType"] == "JSONPatch"
    changed: dict[str, Any] = json.loads(json.dumps(found))
    for operation in json.loads(base64.b64decode(answer["patch"])):
        assert operation["op"] == "add"
        _, spec, name, *end = operation["path"].split("/")
        if end:
            assert end == ["-"]
            changed[spec][name].append(operation["value"])
        else:
            changed[spec][name] = operation["value"]
    return changed


async def test_who_may_everywhere_is_asked_about_once(webhook: Running) -> None:
    webhook.api.rights = {("root", "")}
    spec = {"namespaces": [f"n{number}" for number in range(100)]}
    webhook.api.add("ElasticQuota", "n7", "q")
    answer = await webhook.review("CompositeElasticQuota", "admin", "c", spec, userInfo={"username": "root"})
    assert answer["allowed"] is True
    assert "ElasticQuota n7/q is superseded" in answer["warnings"][0]
    assert len(webhook.api.reviews) == 1


async def test_an_unchanged_spec_passes_even_without_the_api_server(webhook: Running) -> None:
    webhook.api.failing = 503
    old = {"metadata": {"name": "q"}, "spec": {"min": {"cpu": 1}}}
    assert (await webhook.review("ElasticQuota", "x", "q", operation="UPDATE", oldObject=old))["allowed"] is True


async def test_an_api_server_in_trouble_refuses_and_says_so(webhook: Running) -> None:
    webhook.api.failing = 503
    answer = await webhook.review("ElasticQuota", "x", "q")
    assert answer["status"]["code"] == 500
    assert "503: etcd is away" in answer["status"]["message"]


async def test_an_api_server_that_hangs_is_given_so_many_seconds(tmp_path: Path) -> None:
    api = FakeApi(hangs=True)
    async with api.serving(), serving(api, tmp_path, answer_seconds=0.1) as webhook:
        answer = await webhook.review("ElasticQuota", "x", "q")
    assert answer["status"]["code"] == 500
    assert "no answer from the API server within 0.1 s" in answer["status"]["message"]


async def test_what_is_no_review_is_a_bad_request(webhook: Running) -> None:
    async with webhook.session.post(f"{webhook.url}/validate/elasticquotas", data=b"hello") as response:
        assert response.status == 400
        assert "not an AdmissionReview" in await response.text()


async def test_probes_and_metrics(webhook: Running) -> None:
    await webhook.review("ElasticQuota", "x", "q")
    assert await webhook.get("/healthz") == (200, "ok\n")
    assert await webhook.get("/readyz") == (200, "ok\n")
    status, text = await webhook.get("/metrics")
    assert status == 200
    assert 'n8s_webhook_reviews_total{kind="ElasticQuota",outcome="allowed"} 1.0' in text


def shown(port: int) -> str:
    certificate = x509.load_pem_x509_certificate(ssl.get_server_certificate(("127.0.0.1", port)).encode())
    return str(certificate.subject.rfc4514_string())


async def test_a_renewed_certificate_is_shown_without_restart(webhook: Running) -> None:
    assert await asyncio.to_thread(shown, webhook.port) == "CN=first"
    write_certificate(webhook.tls_dir, "second")

    async def second() -> bool:
        return await asyncio.to_thread(shown, webhook.port) == "CN=second"

    await until(second)
    assert await webhook.get("/healthz") == (200, "ok\n")


async def test_no_handshake_fails_while_certificates_are_renewed(webhook: Running) -> None:
    names_shown: list[str] = []
    last = asyncio.Event()

    async def look() -> None:
        while not last.is_set():
            names_shown.append(await asyncio.to_thread(shown, webhook.port))

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(look())
        for number in range(20):
            write_certificate(webhook.tls_dir, f"c{number}")
            await until(sync(lambda: f"CN=c{number}" in names_shown))  # noqa: B023 - called in here
        last.set()


async def test_a_certificate_without_its_key_is_not_taken_up(
    webhook: Running, caplog: pytest.LogCaptureFixture
) -> None:
    old_key = (webhook.tls_dir / "tls.key").read_bytes()
    write_certificate(webhook.tls_dir, "second")
    (webhook.tls_dir / "tls.key").write_bytes(old_key)
    await until(sync(lambda: "certificate not taken up" in caplog.text))
    assert await asyncio.to_thread(shown, webhook.port) == "CN=first"


async def test_when_stopped_it_answers_until_clients_have_left(webhook: Running) -> None:
    webhook.stop.set()

    async def unready() -> bool:
        return (await webhook.get("/readyz"))[0] == 503

    await until(unready)
    async with webhook.session.get(webhook.url + "/healthz") as response:
        assert response.headers["Connection"] == "close"
    assert (await webhook.review("ElasticQuota", "x", "q"))["allowed"] is True
    await asyncio.wait_for(webhook.task, 5)
    assert not listens(webhook.port)


async def test_two_serve_on_one_address_while_one_replaces_the_other(webhook: Running, tmp_path: Path) -> None:
    stop = asyncio.Event()
    settings = Config("127.0.0.1", webhook.port, webhook.tls_dir, tmp_path / "kubeconfig")
    new = asyncio.create_task(program.run(settings, stop, drain_seconds=0))
    webhook.stop.set()
    while not webhook.task.done():
        assert await webhook.get("/healthz") == (200, "ok\n")
    assert await webhook.get("/readyz") == (200, "ok\n")
    stop.set()
    await asyncio.wait_for(new, 5)


async def test_the_program_ends_well_on_sigterm(tmp_path: Path) -> None:
    write_certificate(tmp_path, "first")
    api, port = FakeApi(), free_port()
    arguments = ["--listen", f"127.0.0.1:{port}", "--tls-dir", str(tmp_path)]
    arguments += ["--kubeconfig", str(api.kubeconfig(tmp_path / "kubeconfig"))]
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "webhook", *arguments)
    try:
        await until(sync(lambda: listens(port)), 20)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_setting_that_cannot_be_used_is_named(webhook: Running, tmp_path: Path) -> None:
    for settings, field in (
        (Config("127.0.0.1", webhook.port, tmp_path), "--tls-dir"),
        (Config("127.0.0.1", webhook.port, webhook.tls_dir), "--kubeconfig"),
        (Config("192.0.2.1", webhook.port, webhook.tls_dir, tmp_path / "kubeconfig"), "--listen"),
    ):
        with pytest.raises(ConfigError) as caught:
            await program.run(settings, asyncio.Event())
        assert caught.value.field == field
