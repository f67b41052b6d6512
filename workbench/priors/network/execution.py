"""How a network is run: in parts, in which precision and memory format, compiled, recomputed for gradients.

Nothing here changes what is computed but for rounding: the noise level, the formula of the denoiser and the
sums over tiles stay outside, in the precision of z.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from operators.checks import check_count, replaced
from operators.errors import type_error, value_error

__all__ = ["Execution"]

#: What autocast may compute in.
HALVES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Execution:
    """The settings of a run of a network; none of them changes its answer but for rounding.

    Parameters
    ----------
    microbatch
        So many images enter the network at once, None: the whole batch (of tiles: one per batch element).
    autocast
        torch.bfloat16 or torch.float16: what the network's matrix products and convolutions are done in.
    channels_last
        Whether weights and images are laid out with their channels last: faster for many convolutions.
    compile
        Whether the network is compiled (torch.compile), at its first call.
    checkpoint
        Whether the network is run again for a gradient instead of keeping its activations. None: where
        a gradient is wanted of more than one microbatch, so that memory is that of one.
    """

    microbatch: int | None = None
    autocast: torch.dtype | None = None
    channels_last: bool = False
    compile: bool = False
    checkpoint: bool | None = None

    def __post_init__(self) -> None:
        if self.microbatch is not None:
            object.__setattr__(self, "microbatch", check_count(self.microbatch, "microbatch"))
        if self.autocast is not None and self.autocast not in HALVES:
            expected = f"be None, {' or '.join(map(str, HALVES))}"
            raise value_error("autocast", expected, repr(self.autocast))
        for name in ("channels_last", "compile"):
            if not isinstance(getattr(self, name), bool):
                raise type_error(name, "be True or False", repr(getattr(self, name)))
        if self.checkpoint is not None and not isinstance(self.checkpoint, bool):
            raise type_error("checkpoint", "be True, False or None", repr(self.checkpoint))

    def with_(self, **changes: object) -> Execution:
        """Return the same settings with some of them changed."""
        return replaced(self, changes)
