"""May this pod be evicted? The rule of the eviction subresource, over disruption budgets. Pure.

Source: Kubernetes documentation, "API-initiated eviction" and "Pod disruption budgets".
"""

from __future__ import annotations

from collections.abc import Iterable

from lab.k3s_sim.node.errors import StatusError
from lab.k3s_sim.node.objects import Object
from lab.k3s_sim.node.selectors import matches_label_selector

_FINISHED = ("Succeeded", "Failed")
_SEVERAL = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
_VIOLATES = "Cannot evict pod as it would violate the pod's disruption budget."


def require_evictable(pod: Object, budgets: Iterable[Object], pods: Iterable[Object]) -> None:
    """Refuse an eviction that a budget forbids.

    Args:
        budgets, pods: all of the pod's namespace.

    Raises:
        StatusError: 429 for a budget that is used up, 500 for a pod that several budgets select.
    """
    if (pod.get("status") or {}).get("phase") in _FINISHED or "deletionTimestamp" in pod["metadata"]:
        return
    concerned = [budget for budget in budgets if _selects(budget, pod)]
    if len(concerned) > 1:
        raise StatusError(500, "InternalError", _SEVERAL)
    for budget in concerned:
        _require_allowance(budget, [other for other in pods if _selects(budget, other)])


def _require_allowance(budget: Object, pods: list[Object]) -> None:
    healthy = sum(1 for pod in pods if _is_healthy(pod))
    spec = budget.get("spec") or {}
    if spec.get("minAvailable") is not None:
        needed = _share(spec["minAvailable"], len(pods))
    elif spec.get("maxUnavailable") is not None:
        needed = len(pods) - _share(spec["maxUnavailable"], len(pods))
    else:
        needed = 0
    if healthy - 1 >= needed:
        return
    name = budget["metadata"]["name"]
    why = f"The disruption budget {name} needs {needed} healthy pods and has {healthy} currently"
    raise StatusError(
        429, "TooManyRequests", _VIOLATES,
        {"causes": [{"reason": "DisruptionBudget", "message": why}]},
    )  # fmt: skip


def _share(value: object, total: int) -> int:
    """An absolute number, or a percentage rounded up."""
    if isinstance(value, str) and value.endswith("%"):
        return -(-int(value[:-1]) * total // 100)
    return int(str(value))


def _selects(budget: Object, pod: Object) -> bool:
    selector = (budget.get("spec") or {}).get("selector")
    return selector is not None and matches_label_selector(selector, pod["metadata"].get("labels") or {})


def _is_healthy(pod: Object) -> bool:
    if "deletionTimestamp" in pod["metadata"]:
        return False
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
