"""Where programs are looked for; nothing is built here."""

from __future__ import annotations

from pathlib import Path

from deploy.local import binaries

KUBELET = next(tool for tool in binaries.TOOLS if tool.name == "kubelet")


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o755)
    return path


def test_assets_come_before_the_cache(tmp_path: Path) -> None:
    environ = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "KUBEBUILDER_ASSETS": str(tmp_path / "assets")}
    assert binaries.find(KUBELET, environ) is None
    cached = program(tmp_path / "cache" / "nebulnetes" / "bin" / f"kube-v{binaries.KUBERNETES}" / "kubelet")
    assert binaries.find(KUBELET, environ) == cached
    asset = program(tmp_path / "assets" / "kubelet")
    assert binaries.find(KUBELET, environ) == asset


def test_a_helm_that_was_made_for_another_kubernetes_is_not_taken(tmp_path: Path) -> None:
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    helm = next(tool for tool in binaries.TOOLS if tool.name == "helm")
    program(tmp_path / "nebulnetes" / "bin" / f"helm-v{binaries.HELM}" / "helm")
    assert binaries.find(helm, environ) is None


def test_the_cache_is_in_the_home_by_default(tmp_path: Path) -> None:
    assert binaries.cache_dir({"HOME": str(tmp_path)}) == tmp_path / ".cache" / "nebulnetes"


def test_what_is_not_executable_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "kubelet").touch(mode=0o644)
    environ = {"KUBEBUILDER_ASSETS": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    assert binaries.find(KUBELET, environ) is None
