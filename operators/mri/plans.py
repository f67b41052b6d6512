"""What finufft and cufinufft share: plans kept for each size of batch, and the accuracy to ask for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

__all__ = ["TOGETHER", "KeptPlans", "asked"]

#: Images in one call: enough to share the work on the points, few enough to bound the memory.
TOGETHER = 32
#: Plans kept: two ways, a full block and a rest, for two sizes of batches.
KEPT = 8


class KeptPlans:
    """The plans used last. They belong to this process: a copy has none and makes its own."""

    def __init__(self) -> None:
        self._plans: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return the plan of `key`, made where there is none."""
        if key not in self._plans:
            self._plans[key] = make()
            if len(self._plans) > KEPT:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        return self._plans[key]

    def __getstate__(self) -> dict[str, object]:
        return {"_plans": OrderedDict()}


def asked(accuracy: float, *, single: bool) -> float:
    """Return what to ask for: a measure of the window; in one dimension the sum is 2.4 times as far off."""
    return max(accuracy / 2.5, 1e-6 if single else 1e-15)
