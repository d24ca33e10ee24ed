"""Images, mounts and logs of the stand-in runtime, each by itself."""

from __future__ import annotations

import asyncio

import pytest

from deploy.local import crilog, images, mounts
from deploy.local.errors import MountError


@pytest.mark.parametrize(
    ("image", "module"),
    [
        ("nebulnetes/brain", "brain"),
        ("nebulnetes/agent:1.0", "nodeagent"),
        ("example.test/nebulnetes/webhook@sha256:00", "webhook"),
        ("example.test:5000/x/nebulnetes/brain:dev@sha256:00", "brain"),
        ("nvidia/k8s-device-plugin:v0.18", "deploy.local.deviceplugin"),
        ("example.test:5000/brain", None),
        ("other/brain", None),
        ("brain", None),
    ],
)
def test_image_to_entry_point(image: str, module: str | None) -> None:
    entry = images.entry_point(image)
    assert (entry and entry.module) == module


def test_mounts_below_private_places_are_made_and_others_bound() -> None:
    wanted = [
        mounts.Mount("/v/token", "/var/run/secrets/kubernetes.io/serviceaccount", read_only=True, directory=True),
        mounts.Mount("/v/hosts", "/etc/hosts", read_only=False, directory=False),
        mounts.Mount("/v/x", "/dev/termination-log", read_only=False, directory=False),
        mounts.Mount("/v/a b", "/run/app/file", read_only=False, directory=False),
    ]
    assert mounts.commands(wanted, exists=lambda path: path == "/etc/hosts") == [
        "mount -t tmpfs -o mode=755 tmpfs /run",
        "mount --bind /v/hosts /etc/hosts",
        "mkdir -p /run/app",
        "touch /run/app/file",
        "mount --bind '/v/a b' /run/app/file",
        "mkdir -p /run/secrets/kubernetes.io/serviceaccount",
        "mount --bind /v/token /run/secrets/kubernetes.io/serviceaccount",
        "mount -o remount,bind,ro /run/secrets/kubernetes.io/serviceaccount",
    ]


def test_a_mount_inside_another_is_made_there() -> None:
    wanted = [
        mounts.Mount("/v/inner", "/data/inner", read_only=False, directory=True),
        mounts.Mount("/v/outer", "/data", read_only=False, directory=True),
    ]
    assert mounts.commands(wanted, exists=lambda path: path == "/data")[1:] == [
        "mount --bind /v/outer /data",
        "mkdir -p /data/inner",
        "mount --bind /v/inner /data/inner",
    ]


@pytest.mark.parametrize(("source", "target"), [("/v", "/certs"), ("/run/x", "/run/x"), ("/var/run/x", "/var/lib/x")])
def test_what_would_touch_the_machine_is_refused(source: str, target: str) -> None:
    with pytest.raises(MountError) as caught:
        mounts.commands([mounts.Mount(source, target, read_only=False, directory=True)], exists=lambda _: False)
    assert caught.value.container_path == target


def test_a_log_line() -> None:
    line = crilog.format_line(1_767_225_600_000_000_042, "stderr", b"hello  world")
    assert line == b"2026-01-01T00:00:00.000000042Z stderr F hello  world\n"


async def test_output_is_cut_into_lines_and_read_back() -> None:
    reader = asyncio.StreamReader()
    long = b"x" * (crilog.LONGEST + 5)
    reader.feed_data(b"one\n\ntwo" + b"\n" + long + b"\nend")
    reader.feed_eof()
    written: list[bytes] = []
    await crilog.copy(reader, "stdout", lambda: 0, written.append)
    assert [line.split(b" ", 3)[2] for line in written[:3]] == [b"F", b"F", b"F"]
    text = crilog.plain_text(line.decode() for line in written)
    assert text == "one\n\ntwo\n" + long.decode() + "\nend\n"


def test_a_line_of_another_format_stays() -> None:
    assert crilog.plain_text(["not of the format\n"]) == "not of the format\n"
