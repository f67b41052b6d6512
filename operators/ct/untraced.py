"""Where torch.compile splits the graph: what it would trace there is compiled already.

A file of its own, since saying so imports torch's tracer, which takes as long as torch itself.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["untraced"]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def untraced(function: Callable[[str, Tensor], Tensor], way: str, x: Tensor) -> Tensor:
    """Return function(way, x), which no graph holds."""
    return function(way, x)
