"""What a solver is: a frozen value with `init` and `step`.

    class Langevin(Solver[LangevinState]): ...

A solver holds its parameters and nothing else. What the next step needs is its state, a frozen
dataclass of tensors, numbers and dataclasses of such, one row per draw, handed in and out; what
only diagnostics need is its info. Randomness comes from the keys of the step, so that a step can be
done again. The driver owns the loop: solvers have none, and see u alone, never physical units.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Self, TypeVar

from torch import Tensor

from workbench.capabilities import Capabilities
from workbench.kinds import Kind
from workbench.plan import PlanRow, SolverPlan
from workbench.posterior import Posterior
from workbench.random import Keys

__all__ = ["Cost", "Info", "Solver"]

#: A state: a frozen dataclass.
S = TypeVar("S")


@dataclass(frozen=True)
class Info:
    """What a step has to tell: `estimate` of u (batch, ...) for viewers, one number per draw by name.

    An estimate that costs something is given as a function, called only if somebody looks. `finished`
    ends the run of these draws before the plan does.
    """

    estimate: Tensor | Callable[[], Tensor] | None = None
    values: Mapping[str, Tensor] = field(default_factory=dict)
    finished: bool = False

    def copied(self) -> Info:
        """Return the same to be handed out: whoever changes it in place changes nothing here."""
        estimate = self.estimate
        if isinstance(estimate, Tensor):
            kept = estimate
            estimate = lambda: kept.clone()  # noqa: E731
        values = {name: value.clone() for name, value in self.values.items()}
        return Info(estimate, values, self.finished)


@dataclass(frozen=True)
class Cost:
    """What one draw takes at least; a budget below it is refused before the run."""

    network_evaluations: int = 0
    backward_passes: int = 0
    operator_calls: int = 0


class Solver(ABC, Generic[S]):
    """One method of answering a posterior; subclasses are frozen dataclasses."""

    #: What its answers are. A solver whose parameters decide makes this a property.
    kind: Kind
    #: What it can work on; checked before the run.
    capabilities: ClassVar[Capabilities]
    #: The class of its state.
    state_type: ClassVar[type[Any]]
    #: Whether every draw would be the same: then there is one.
    deterministic: ClassVar[bool] = False

    #: Whether the plan is a limit that a run seldom reaches: nobody then knows the time left.
    plan_is_limit: ClassVar[bool] = False
    #: How many copies of all its interacting particles are held: of states, what they carry, the answer.
    held: ClassVar[int] = 7
    #: What to do where a step gives no numbers; stands in the error.
    remedy: ClassVar[str] = "Rescale the units of the prior or use float64 data."

    @property
    def particles(self) -> int | None:
        """Number of interacting particles, None where draws are independent."""
        return None

    @property
    def width(self) -> int:
        """How many states a draw takes at once: what a microbatch holds of each."""
        return 1

    @abstractmethod
    def plan(self, posterior: Posterior) -> SolverPlan:
        """Return the rows of the run."""

    @abstractmethod
    def init(self, posterior: Posterior, keys: Keys, like: Tensor) -> S:
        """Return the state of the draws `keys.draws` before the first step, in the dtype of `like`."""

    @abstractmethod
    def step(self, posterior: Posterior, state: S, row: PlanRow, keys: Keys) -> tuple[S, Info]:
        """Return the state after one step, and what there is to tell. `state` is not changed."""

    @abstractmethod
    def answer(self, posterior: Posterior, state: S) -> Tensor:
        """Return u (batch, *space.shape) at the end."""

    def whereabouts(self, row: PlanRow) -> str:
        """Return where a step is in terms of the solver, such as its noise level, for errors."""
        del row
        return ""

    def log_weights(self, state: S) -> Tensor | None:
        """Return the log-weights of interacting particles, None where they weigh the same."""
        del state
        return None

    def in_parts(self, size: int) -> Self:
        """Return the same solver, which computes at most `size` interacting particles at once."""
        del size
        return self

    def facts(self, posterior: Posterior, state: S) -> dict[str, Any]:
        """Return what interacting particles say of themselves at the end, JSON-able, for the record."""
        del posterior, state
        return {}

    def caution(self, record: Mapping[str, Any]) -> None:
        """Warn of what the record of a finished run, also of one read back, says against its answer."""
        del record

    def cost(self, posterior: Posterior, plan: SolverPlan) -> Cost:
        """Return what one draw takes at least, the plan itself not counted."""
        del posterior, plan
        return Cost()
