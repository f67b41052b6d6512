"""What a chain is to the referee: rows, a step for each as a function of white noise, and an answer.

    z_0 = start(model, sigma_0, w),    z' = step(model, z, row, w),    answer(model, z)

w of a step holds, side by side, one white vector for each of its purposes, in the space of the image or in
that of the whitened data. z may be wider than an image: what an optimiser remembers is part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from pipelines.verify.referee.laws.model import Model

__all__ = ["Chain", "Move", "Noise", "Row", "Start", "width_of"]

Row = tuple[float, ...]
#: What random numbers are for, and the space that they are in.
Noise = tuple[str, Literal["image", "data"]]
Move = Callable[[Model, Tensor, Row, Tensor], Tensor]
Start = Callable[[Model, float, Tensor], Tensor]
Drawn = Callable[[Model, Row], Sequence[Noise]]


@dataclass(frozen=True)
class Chain:
    """z' = step(model, z, row, w) row by row from z_0 = start(model, sigma_0, w), None: sigma_0 w.

    A row begins with its level sigma. `affine` says that z is an image and the step affine in z and w where
    the prior is Gaussian, `proximal` that it calls the model's `closest` even where that has several answers.
    `purposes` are the names of the solver's random numbers: at the start, and in a step the name of a single
    vector or a function that tells the noises of a row. `answer` is made of the last z, None: z itself. Of
    `runs` chains for each draw it is the one of least misfit.
    """

    rows: Callable[[Model], Sequence[Row]]
    step: Move
    purposes: tuple[str, str | Drawn]
    affine: bool = True
    start: Start | None = None
    proximal: bool = False
    answer: Callable[[Model, Tensor], Tensor] | None = None
    runs: int = 1

    def begun(self, model: Model, sigma: float, white: Tensor) -> Tensor:
        """Return z_0."""
        return sigma * white if self.start is None else self.start(model, sigma, white)

    def noises(self, model: Model, row: Row) -> Sequence[Noise]:
        """Return purpose and space of each white vector of a step."""
        drawn = self.purposes[1]
        return ((drawn, "image"),) if isinstance(drawn, str) else drawn(model, row)

    def ended(self, model: Model, z: Tensor) -> Tensor:
        """Return the answers, of the last z of each chain."""
        rows = z if self.answer is None else self.answer(model, z)
        if self.runs == 1:
            return rows
        misfits = model.residual(rows).square().sum(1).reshape(-1, self.runs)
        best: Tensor = rows.reshape(len(misfits), self.runs, -1)[range(len(misfits)), misfits.argmin(1)]
        return best


def width_of(model: Model, noises: Sequence[Noise]) -> int:
    """Return the number of white numbers that they are together."""
    return sum(model.size if space == "image" else len(model.data) for _, space in noises)
