"""The prox of a smooth function by Newton's method with conjugate gradients, for each sample of a batch.

    F(x) = f(x) + |x - c|^2 / (2 r^2),    g = F'(x),    H = f''(x) + 1 / r^2
    H p = -g by conjugate gradients,      x <- x + t p,  t = 1, 1/2, 1/4, ... (Armijo)

f'' >= 0 is the curvature or a bound on it from above: where f is not convex, it has to be made so by
whoever states it, and p still descends. Each sample has its own t and stops by itself, at

    e^2 = (g^T H^-1 g) / n  <=  tolerance^2

which is how far x is from the minimum of the quadratic model in standard deviations of exp(-F), root mean
square over the n real components: no units, no scale of the start. With the iterate p and its residual
s = -g - H p, g^T H^-1 g = -g^T p + s^T H^-1 s <= -g^T p + r^2 |s|^2. What a solve to the last digit leaves
over does not count.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from operators.base import Operator
from operators.batch import column, components, dots
from operators.cg import conjugate_gradient
from operators.checks import check_count
from operators.errors import ConvergenceWarning
from workbench.likelihood.white_solve import accuracy_asked
from workbench.noise.base import Noise, Value, double

__all__ = ["NewtonResult", "law_prox", "proximal", "way_out"]

Map = Callable[[Tensor], Tensor]
Linearise = Callable[[Tensor], tuple[Tensor, Map]]

#: The share of the decrease promised by the slope that a step has to keep.
ARMIJO = 1e-4
HALVINGS = 30
#: Conjugate gradients per step: what they leave unsolved, the next step solves.
INNER_ITERATIONS = 1000
#: The share of a value below which a difference may be rounding, and how much flatter a slope then has to be.
SLACK, FLATTER = 1e-6, 0.9
#: Steps without a visible decrease, in value or in error, after which rounding has the last word.
PATIENCE = 5
#: The loosest solve of a step, relative to |g|.
LOOSE = 0.1


@dataclass(frozen=True, eq=False)
class NewtonResult:
    """What was reached, for each sample: `error` is e before the last step, in standard deviations."""

    solution: Tensor
    iterations: int
    error: Tensor
    converged: Tensor


def proximal(
    value: Map,
    linearise: Linearise,
    centre: Tensor,
    r: float | Tensor,
    *,
    towards: Tensor | None = None,
    tolerance: float | None = None,
    max_iterations: int = 200,
) -> NewtonResult:
    """Minimise value(x) + |x - centre|^2 / (2 r^2) from the centre, for one `r` or one per sample.

    `value` gives one number per sample, in double precision; `linearise` the gradient at a point and
    the curvature there as a map. Where a step in the direction `towards` lowers what is minimised, it
    starts there: a stationary centre may be a maximum. The tolerance is 1e-4 in single, 1e-8 in double
    precision unless given. It warns where it stops short; what the precision of x cannot hold is not short.
    """
    check_count(max_iterations, "max_iterations")
    precision = torch.finfo(centre.dtype).eps
    goal = accuracy_asked(tolerance, centre)
    pull = column(1 / (r * r), centre) if isinstance(r, Tensor) else 1 / (r * r)
    root = components(centre) ** 0.5

    def whole(x: Tensor) -> Tensor:
        way = x - centre
        return value(x) + 0.5 * dots(double(way), double(pull * way))

    def linearised(x: Tensor) -> tuple[Tensor, Map]:
        gradient, curvature = linearise(x)
        return gradient + pull * (x - centre), lambda v: curvature(v) + pull * v

    x, level = centre, whole(centre)
    if towards is not None:
        x, level = _left(whole, x, level, towards)
    gradient, curvature = linearised(x)
    size = _norms(gradient)
    accuracy = torch.full_like(size, LOOSE)
    error, least = torch.full_like(size, torch.inf), torch.full_like(size, torch.inf)
    idle = torch.zeros_like(size, dtype=torch.int64)
    reached = torch.zeros_like(size, dtype=torch.bool)
    active = ~reached
    iteration = 0
    while iteration < max_iterations and bool(active.any()):
        iteration += 1
        masked = torch.where(column(active, gradient), gradient, 0.0)
        solved = conjugate_gradient(curvature, -masked, tolerance=accuracy, max_iterations=INNER_ITERATIONS)
        slope = dots(double(masked), double(solved.solution))
        unsolved = (r * solved.relative_residual.double() * size) ** 2
        unsolved = torch.where(accuracy > 10 * precision, unsolved, 0.0)
        p = torch.where(column(slope < 0, x), solved.solution, -masked)
        slope = torch.where(slope < 0, slope, -(_norms(masked) ** 2))
        error = torch.where(active, (unsolved - slope).sqrt() / root, error)
        above = level
        x, level, moved = _line_search(whole, linearised, x, level, p, slope, active)
        gradient, curvature = linearised(x)
        reached = reached | (active & (error <= goal))
        # Its bound may rise from one step to the next: only several in a row are a standstill.
        idle = torch.where(error < 0.9 * least, 0, idle + 1)
        least = torch.minimum(least, error)
        stalled = ~moved | ((above - level <= SLACK * level.abs()) & (idle >= PATIENCE))
        active = active & ~reached & ~stalled
        last, size = size, _norms(gradient)
        # Quadratic convergence wants solves that become better as fast (Eisenstat and Walker 1996); at the
        # end they have to be good enough to know the error.
        near = torch.where(
            error <= 10 * goal, 0.3 * goal * root / torch.where(size > 0, r * size, 1.0), LOOSE
        )
        better = torch.where(last > 0, size / torch.where(last > 0, last, 1.0), 0.0) ** 2
        accuracy = torch.minimum(better, near).clamp(min=10 * precision, max=LOOSE)
    if not bool(reached.all()):
        held = dots(x, curvature(x)).double().clamp(min=0).sqrt() / root
        reached = reached | (~active & (error <= 4 * precision * held))
    result = NewtonResult(x, iteration, error, reached)
    _warn(result)
    return result


def law_prox(
    operator: Operator,
    noise: Noise,
    data: Tensor,
    predicted: Map,
    c: Tensor,
    r: Value,
    tolerance: float | None,
    max_iterations: int,
) -> Tensor:
    """Return argmin_x -log p(data | predicted(x)) + |x - c|^2 / (2 r^2) for c (..., *domain.shape).

    `predicted` is A(x) + offset; `data` come in the precision that is worked in.
    """
    # -log p is a sum of large numbers whose differences are looked at.
    point, c = c, double(c) if torch.float64 in operator.dtypes else c
    tolerance = accuracy_asked(tolerance, point)

    def linearise(x: Tensor) -> tuple[Tensor, Map]:
        m = predicted(x)

        def curvature(v: Tensor) -> Tensor:
            image = operator.apply_jvp(x, v)
            return operator.apply_vjp(x, noise.positive_curvature(m, data, image))

        return -operator.apply_vjp(x, noise.score(m, data)), curvature

    centre = c.reshape(-1, *operator.domain.shape)
    if isinstance(r, Tensor):
        r = r.to(c.real.dtype).expand(c.shape[: c.ndim - operator.domain.ndim]).reshape(-1)
    result = proximal(
        lambda x: -noise.log_likelihood(predicted(x), data),
        linearise,
        centre,
        r,
        towards=way_out(operator, centre, noise.escape(predicted(centre), data)),
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    return result.solution.reshape(c.shape).to(point.dtype)


def way_out(operator: Operator, x: Tensor, target: Tensor | None) -> Tensor | None:
    """Return the step d from x, a maximum of -log p that no gradient leaves, to the data `target`."""
    if target is None:
        return None
    d = operator.apply_vjp(x, target)
    image = operator.apply_jvp(x, d)
    # The length that fits J d to the target best.
    square = dots(image, image)
    return d * column(torch.where(square > 0, dots(d, d) / torch.where(square > 0, square, 1.0), 0.0), d)


def _warn(result: NewtonResult) -> None:
    if not bool(result.converged.all()):
        worst = float(result.error[~result.converged].max())
        warnings.warn(
            f"the prox stopped {worst:.2e} standard deviations from its minimum after {result.iterations} "
            "Newton steps. Raise `max_iterations`, lower `r`, relax `tolerance`, or use float64.",
            ConvergenceWarning,
            stacklevel=5,
        )


def _line_search(
    value: Map, linearise: Linearise, x: Tensor, level: Tensor, p: Tensor, slope: Tensor, active: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the next point, its value and whether it is another one, per sample.

    The value is a sum whose rounding hides small decreases. There the slope decides, which has to become
    flatter (Hager and Zhang 2005).
    """
    length = active.double()
    found = ~active
    best = level
    for _ in range(HALVINGS):
        trial = x + _times(length, p)
        reached = value(trial)
        fits = reached <= level + ARMIJO * length * slope
        unclear = ~fits & ~found & (reached <= level + SLACK * level.abs())
        if bool(unclear.any()):
            there = dots(double(linearise(trial)[0]), double(p))
            fits = fits | (unclear & (there.abs() <= FLATTER * slope.abs()))
        best = torch.where(fits & ~found, reached, best)
        found = found | fits
        if bool(found.all()):
            break
        length = torch.where(found, length, length / 2)
    length = torch.where(found, length, 0.0)
    return torch.where(column(length, x) > 0, x + _times(length, p), x), best, length > 0


def _left(value: Map, x: Tensor, level: Tensor, towards: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first of x + towards, x + towards / 2, ... that is lower, and its value; else x."""
    begun, waiting = x, _norms(towards) > 0
    for halvings in range(HALVINGS):
        trial = begun + towards / 2**halvings
        reached = value(trial)
        taken = waiting & (reached < level)
        x, level = torch.where(column(taken, x), trial, x), torch.where(taken, reached, level)
        waiting = waiting & ~taken
        if not bool(waiting.any()):
            break
    return x, level


def _times(length: Tensor, p: Tensor) -> Tensor:
    return column(length, p).to(p.real.dtype if p.is_complex() else p.dtype) * p


def _norms(values: Tensor) -> Tensor:
    """Return |values| per sample, in double precision, where squares have room."""
    wide = double(values)
    return dots(wide, wide).sqrt()
