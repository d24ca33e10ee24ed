"""The scheduling gate on new pods, for clusters whose API server cannot put it on by itself (before Kubernetes 1.36).

Which pods are asked about at all, the webhook's configuration says, by the same conditions as the policy that takes its
place on newer clusters. So it looks at nothing of a pod but its gates, and never refuses one.
"""

from __future__ import annotations

from n8s import names
from webhook.review import Answer, Operation, Request


def gate(request: Request) -> Answer:
    """What a new pod's review is answered: it passes, with the gate unless it has it already."""
    if request.object is None:
        return Answer()
    gates = request.object.spec.get("schedulingGates") or []
    if any(each.get("name") == names.QUOTA_GATE for each in gates):
        return Answer()
    path, ours = "/spec/schedulingGates", {"name": names.QUOTA_GATE}
    if gates:
        return Answer(patch=(Operation("add", f"{path}/-", ours),))
    # "add" also replaces what is there: an empty list or null.
    return Answer(patch=(Operation("add", path, [ours]),))
