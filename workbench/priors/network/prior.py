"""A network as a prior: any torch.nn.Module that predicts data, noise, v, score, velocity or EDM's F.

    z -> channels -> size policy -> x = a z + b x_in -> network -> D -> back

The noise level, the formula and the policy work in the precision of z; the module in its own. All that could
be wrong with its channels, size, spacing or units is found when the prior is made, or bound to its condition.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, TypeVar

import torch
from torch import Tensor, nn

from operators.checks import check_finite
from operators.errors import type_error, value_error
from operators.space import Space
from workbench.priors.base import Condition, Counter, Denoiser
from workbench.priors.flat import require_field
from workbench.priors.network.calling import IMAGE, Calling, Plain
from workbench.priors.network.execution import Execution
from workbench.priors.network.frozen import Beside, FrozenModule
from workbench.priors.network.output import Output
from workbench.priors.network.policy import Exact, Frame, SizePolicy, require_dimensions
from workbench.priors.network.sizing import Images
from workbench.priors.network.training import Training
from workbench.units import Units

__all__ = ["NetworkPrior"]

T = TypeVar("T")


class NetworkPrior(Denoiser):
    """The prior that a trained network stands for.

    Parameters
    ----------
    module
        The network, called as `calling` says. A private copy in evaluation mode is kept that shares the
        memory of its weights; they must not be trained on.
    space
        Of images or volumes, real or complex, with any components.
    output
        What the network gives, on which path: `PathOutput(path, prediction, label)` or `EDMOutput(sd)`.
    training
        What it was trained on; what it states is enforced.
    calling
        `Plain()`, `Labelled()`, `Monai()`, `Diffusers()`, with the conditions it takes.
    execution
        Microbatch, autocast, channels-last, compilation, recomputation.
    policy
        What to do on another size or spacing than the trained ones; `Exact()` refuses them.
    units
        What the numbers mean: those of the training unless given, which then must agree.
    """

    def __init__(
        self,
        module: nn.Module,
        space: Space,
        output: Output,
        *,
        training: Training | None = None,
        calling: Calling | None = None,
        execution: Execution | None = None,
        policy: SizePolicy | None = None,
        units: Units | None = None,
    ) -> None:
        self.training = Training() if training is None else _instance(Training, training, "training")
        super().__init__(require_field(space), _agreed(units, self.training))
        self.output = Output.require(output)
        self.calling = Plain() if calling is None else Calling.require(calling)
        self.policy = Exact() if policy is None else SizePolicy.require(policy)
        self._layout = require_dimensions(space, self.training)
        self._sizing = self.policy.resolve(Frame.of(self._layout), self.training)
        self._levels = _levels(self.output, self.training)
        self.law = self.output.law
        self.knows_pure_noise = self.output.knows_pure_noise and self._levels[1] == math.inf
        self.calibrated_score = self.training.calibrated_score and self._sizing.is_exact
        execution = Execution() if execution is None else _instance(Execution, execution, "execution")
        self._network = FrozenModule(module, self.calling, execution, self._layout.dimensions)
        self._images: dict[str, Tensor] = {}
        self._numbers: dict[str, Tensor] = {}
        if not self.conditions:
            self._probe()

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of what it must be bound to: images, "image" being the path's x_in, then numbers."""
        path = (IMAGE,) if self.output.needs_image else ()
        return tuple(dict.fromkeys((*path, *self.calling.images, *self.calling.numbers)))

    @property
    def is_bound(self) -> bool:
        """Whether it has what it must be bound to."""
        return {*self.conditions} == {*self._images, *self._numbers}

    @property
    def execution(self) -> Execution:
        """How the network is run."""
        return self._network.execution

    @property
    def spacing(self) -> tuple[float, float, float] | None:
        """Voxel sizes of the training in mm (z, y, x), None where it states none."""
        trained = self.training.spacing
        if trained is None:
            return None
        thickness = self.space.grid.spacing[0] if self.space.grid is not None else trained[0]
        z, y, x = trained if len(trained) == 3 else (thickness, *trained)
        return z, y, x

    @property
    def dimensions(self) -> int:
        """2 for slices, 3 for volumes."""
        return self._layout.dimensions

    @property
    def data_range(self) -> tuple[float, float] | None:
        """The interval that the u of the training lay in."""
        return self.training.data_range

    @property
    def data_sd(self) -> float | None:
        """The standard deviation of u in the training."""
        return self.training.data_sd

    @property
    def noise_range(self) -> tuple[float, float]:
        """The levels it was trained at, or that its path has; seen through the policy's voxels."""
        low, high = self._levels
        return low / self._sizing.noise_scale, high / self._sizing.noise_scale

    def to(self, device: torch.device | str) -> Self:
        """Return the same prior with weights and conditions on `device`."""
        other = copy.copy(self)
        other._network = self._network.on(torch.device(device))
        other._images = {name: value.to(device) for name, value in self._images.items()}
        other._numbers = {name: value.to(device) for name, value in self._numbers.items()}
        return other

    def in_units(self, units: Units) -> Self:
        """Return the same prior, its numbers read as `units`: another name for the same physics."""
        other = copy.copy(self)
        other.units = Units.require(units)
        other.training = self.training.with_(units=units)
        return other

    def counted(self, counter: Counter) -> Self:
        """Return the same prior, its evaluations counted by `counter`, for a run that begins now."""
        self._network.require_unchanged(thoroughly=True)
        return super().counted(counter)

    def given(self, condition: Condition) -> NetworkPrior:
        """Return the prior bound to a condition: a tensor where it takes one, else tensors by name.

        Images lie on the grid of the space, without a batch axis; x_in is an element of the space. They
        are copied.
        """
        names = self.conditions
        if not names:
            return super().given(condition)  # type: ignore[return-value]  # which refuses
        if self.is_bound:
            raise value_error("prior", "be bound once", "a prior that has its condition", "Bind the first.")
        values = condition if isinstance(condition, Mapping) else {names[0]: condition}
        if {*values} != {*names}:
            got = ", ".join(map(str, values)) if isinstance(condition, Mapping) else "one tensor"
            raise value_error(
                "condition", f"have the names {', '.join(names)}", got, "given({name: tensor})."
            )
        other = copy.copy(self)
        other._images, other._numbers = {}, {}
        for name in names:
            value = values[name]
            if not isinstance(value, Tensor):
                remedy = "A class is torch.tensor(3)."
                raise type_error(name, "be a torch.Tensor", type(value).__name__, remedy)
            if name in self.calling.numbers:
                other._numbers[name] = self.calling.numbers[name].checked(name, value)
                continue
            check_finite(value, name)
            if name == IMAGE:
                self.space.check(value, name)
                if tuple(value.shape) != self.space.shape:
                    raise value_error(name, f"have the shape {self.space.shape}", tuple(value.shape))
            other._images[name] = self._layout.condition(name, value)
        other._probe()
        return other

    def _denoise(self, z: Tensor, sigma: Tensor) -> Tensor:
        return self._evaluate(z, sigma, scaled=False)

    def _denoise_scaled(self, u: Tensor, inv_sigma: Tensor) -> Tensor:
        return self._evaluate(u, inv_sigma, scaled=True)

    def _evaluate(self, point: Tensor, level: Tensor, *, scaled: bool) -> Tensor:
        """Return D for z and sigma, or for u and 1 / sigma."""
        if not self.is_bound:
            got = f"a prior without {', '.join(self.conditions)}"
            raise value_error("prior", "be bound to its condition", got, "prior.given(condition).")
        y = self._layout.split(point)
        images = {name: value.to(y.device, y.dtype) for name, value in self._images.items()}
        column = level.reshape(-1, *[1] * (y.ndim - 1))
        d = self._sizing.denoise(_NetworkCore(self, scaled), y, column, images, scaled)
        return self._layout.join(d)

    def _beside(self, images: Images) -> Beside:
        """Return what enters the module beside x."""
        names = self.calling.images
        return Beside(torch.cat([images[name] for name in names], dim=1) if names else None, self._numbers)

    def _probe(self) -> None:
        """Raise if the module does not take, or give, images of these channels and this size."""
        # Not as many images as channels: a convolution takes (channels, ...) for an image without a batch.
        count = self._layout.count
        shape = (3 if count == 2 else 2, count, *self._sizing.size)
        images = {n: torch.zeros(1, v.shape[1], *shape[2:]) for n, v in self._images.items()}
        low, high = self._levels
        label = self.output.label_at(torch.tensor([min(max(1.0, low), high)], dtype=torch.float64))
        self._network.probe(shape, label, self._beside(images), self._outputs)

    @property
    def _outputs(self) -> int:
        """How many channels the module gives."""
        return self._layout.count * self.output.outputs_per_channel

    def __repr__(self) -> str:
        return f"NetworkPrior({self._network!r}, {self.space!r})"


@dataclass(frozen=True)
class _NetworkCore:
    """The posterior mean on images of the network's size, for policies."""

    prior: NetworkPrior
    scaled: bool

    @property
    def rows(self) -> int | None:
        """How many images the network takes at once."""
        return self.prior.execution.microbatch

    def __call__(self, y: Tensor, level: Tensor, images: Images, *, many: bool = False) -> Tensor:
        """Return D."""
        prior = self.prior
        beside = prior._beside(images)

        def network(x: Tensor, label: Tensor) -> Tensor:
            return prior._network.run(x, label, beside, prior._outputs, many)[:, : x.shape[1]]

        denoise = prior.output.denoise_scaled if self.scaled else prior.output.denoise
        return denoise(network, y, level, images[IMAGE] if prior.output.needs_image else None)


def _instance(kind: type[T], value: object, argument: str) -> T:
    if not isinstance(value, kind):
        raise type_error(argument, f"be of type {kind.__name__}", type(value).__name__)
    return value


def _agreed(units: Units | None, training: Training) -> Units | None:
    """Return the units of the training, or those given where it states none."""
    if None in (units, training.units) or units == training.units:
        return units or training.units
    remedy = "The network knows no others; a posterior converts: Posterior(prior, likelihood, units=...)."
    raise value_error("units", f"be those the network was trained in, {training.units}", units, remedy)


def _levels(output: Output, training: Training) -> tuple[float, float]:
    """Return the levels that the network sees."""
    known, trained = output.noise_range, training.noise_range
    if trained is None:
        return known
    if trained[0] < known[0] * (1 - 1e-6) or trained[1] > known[1] * (1 + 1e-6):
        expected = f"lie on the output's path, {known[0]:g} <= sigma <= {known[1]:g}"
        raise value_error("training.noise_range", expected, trained)
    return trained
