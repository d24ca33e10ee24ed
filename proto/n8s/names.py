"""Names that users and the parts of Nebulnetes share: labels, annotations, resources, kinds.

Each stands here once. Nothing else belongs here: no logic beyond putting a name together.
"""

from __future__ import annotations

from typing import Final

GROUP: Final = "n8s.nebuly.ai"
VERSION: Final = "v1alpha1"
ELASTIC_QUOTA: Final = "ElasticQuota"
COMPOSITE_ELASTIC_QUOTA: Final = "CompositeElasticQuota"
ELASTIC_QUOTAS: Final = "elasticquotas"
COMPOSITE_ELASTIC_QUOTAS: Final = "compositeelasticquotas"

AUTO_MIG_LABEL: Final = "n8s.nebuly.ai/auto-mig-enabled"
"""Node label; with the value ``true`` Nebulnetes partitions the node's GPUs."""
CAPACITY_LABEL: Final = "n8s.nebuly.ai/capacity"
"""Pod label that the brain keeps: :data:`IN_QUOTA` or :data:`OVER_QUOTA`."""
IN_QUOTA: Final = "in-quota"
OVER_QUOTA: Final = "over-quota"
PREEMPTIBLE_LABEL: Final = "n8s.nebuly.ai/preemptible"
"""Pod label; ``false`` protects the pod: never a victim of reclaim, never a borrower."""
QUOTA_GATE: Final = "n8s.nebuly.ai/quota"
"""Scheduling gate that new pods of governed namespaces get, and that the brain alone takes off."""
QUOTA_LABEL: Final = "n8s.nebuly.ai/quota"
"""Namespace label that the brain keeps: ``true`` where a quota governs the namespace. The gate is put on by it."""
RESERVATION_ANNOTATION: Final = "n8s.nebuly.ai/reservation"
"""Pod annotation that the brain writes as it lets the pod in: the room that it was let in for."""
LEADER_LABEL: Final = "n8s.nebuly.ai/leader"
"""Pod label; ``true`` on the pod of the brain that leads, and on no other. The brains' Service selects by it."""
POD_GROUP_LABEL: Final = "n8s.nebuly.ai/pod-group"
"""Pod label; the pods of a namespace with the same value are of use only together."""
POD_GROUP_MIN_ANNOTATION: Final = "n8s.nebuly.ai/pod-group-min"
"""Pod annotation beside it: how many of them are of use; without it, all."""
REPARTITIONING_TAINT: Final = "n8s.nebuly.ai/repartitioning"
"""Taint key (effect NoSchedule) a node carries while its GPUs are being repartitioned."""

PROBLEM_ANNOTATION: Final = "n8s.nebuly.ai/problem"
"""Node annotation that the brain keeps while something is wrong with the node that a person can put right: one problem
a line, ``<Reason>: <what is wrong and what to do>``."""

GPU_MEMORY: Final = "n8s.nebuly.ai/gpu-memory"
"""Derived resource that quotas may name, in GB; never written in a pod."""
GPU: Final = "nvidia.com/gpu"
MIG_PREFIX: Final = "nvidia.com/mig-"

GPU_PRODUCT_LABEL: Final = "nvidia.com/gpu.product"
"""Node label of NVIDIA GPU feature discovery: the GPU model of the node."""
GPU_MEMORY_LABEL: Final = "nvidia.com/gpu.memory"
"""Node label beside it: the memory of one GPU, in MiB."""
MIG_STRATEGY_LABEL: Final = "nvidia.com/mig.strategy"
"""Node label of GPU feature discovery, with the strategy by which MIG devices become resources."""
MIG_STRATEGY: Final = "mixed"
"""The one strategy with a resource for each profile."""
MIG_CONFIG_LABEL: Final = "nvidia.com/mig.config"
"""Node label that NVIDIA's mig-manager acts on; a node that carries it is mig-manager's."""

BRAIN_AUDIENCE: Final = "n8s-brain"
"""Audience of the tokens that agents and viewers show to the brain, which takes no others."""
VIEWER_ACCOUNT: Final = "n8s-viewer"
"""ServiceAccount in the release's namespace; who may create its tokens may ask the brain."""
BRAIN_CA: Final = "n8s-brain-ca"
"""ConfigMap in the release's namespace with :data:`CA_KEY`: whom to trust that it is the brain that answers."""
CA_KEY: Final = "ca.crt"


def mig_resource(profile: str) -> str:
    """The resource that NVIDIA's device plugin gives a MIG profile: ``1g.5gb+me`` is ``nvidia.com/mig-1g.5gb.me``."""
    return MIG_PREFIX + profile.replace("+", ".")


def status_annotation(gpu: int, resource_profile: str, *, used: bool) -> str:
    """Node annotation with the number of used or free GPU instances of a profile on one GPU.

    ``resource_profile`` is the profile as in the resource name (``1g.5gb.me``): annotation names allow no ``+``.
    """
    return f"{GROUP}/status-gpu-{gpu}-{resource_profile}-{'used' if used else 'free'}"


def spec_annotation(gpu: int, resource_profile: str) -> str:
    """Node annotation with the number of GPU instances of a profile that the brain wants on one GPU."""
    return f"{GROUP}/spec-gpu-{gpu}-{resource_profile}"
