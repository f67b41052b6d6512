"""Whatever a user gets wrong is named by argument, expectation and value, never from deep inside."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numpy as np
import pytest
import torch

from operators import cg
from operators.base import Operator
from operators.blur import Blur, GaussianPSF
from operators.ct import ParallelBeamGeometry
from operators.diagonal import Diagonal
from operators.differences import FiniteDifferences
from operators.fourier import Fourier
from operators.frame import DeviceFrame
from operators.grid import Grid, TimeAxis
from operators.identity import Identity
from operators.mri.cartesian import CartesianGeometry
from operators.space import Space
from operators.stack import BlockDiagonal, SliceWise, Stack

GRID = Grid.from_spacing((2, 4, 5), (3.0, 1.0, 2.0))
REAL = Space.field(GRID)
COMPLEX = Space.field(GRID, is_complex=True)
GRADIENT = FiniteDifferences(REAL)
SAME = Identity(REAL)
IMAGE = torch.rand(REAL.shape, generator=torch.Generator().manual_seed(0))


class Cubed(Operator):
    """A nonlinear operator."""

    def __init__(self) -> None:
        super().__init__(REAL, REAL)

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        return x**3


CUBED = Cubed()
# fmt: off
MISTAKES: list[Callable[[], object]] = [
    lambda: SAME-3,
    lambda: SAME-CUBED,
    lambda: SAME/'2',
    lambda: SAME/None,
    lambda: SAME/torch.tensor([1.,2]),
    lambda: Stack(None),
    lambda: Stack(SAME),
    lambda: BlockDiagonal(SAME),
    lambda: Stack([SAME,SAME]).join(None),
    lambda: Stack([SAME,SAME]).join([torch.rand(2,*REAL.shape),torch.rand(3,*REAL.shape)]),
    lambda: Stack([SAME,SAME]).join([IMAGE,IMAGE.double()]),
    lambda: CUBED.vjp(IMAGE,torch.rand(2,*REAL.shape)),
    lambda: CUBED.vjp(IMAGE,IMAGE*float('nan')),
    lambda: CUBED.jvp(IMAGE.numpy(),IMAGE),
    lambda: SAME.vjp(IMAGE.numpy(),IMAGE),
    lambda: CUBED(IMAGE.to('meta')),
    lambda: SAME(IMAGE.to('meta')),
    lambda: SAME(IMAGE.to_sparse()),
    lambda: Grid(5.,np.eye(4)),
    lambda: Grid(None,np.eye(4)),
    lambda: GRID.with_time(8),
    lambda: Grid.from_spacing((2,2,2),None),
    lambda: Grid.from_spacing((2,2,2),torch.tensor(1.)),
    lambda: Grid.plane(5,1.),
    lambda: GRID.permute(None),
    lambda: GRID.flip([0,1]),
    lambda: GRID.slice_at(0,None),
    lambda: GRID.crop(None,None),
    lambda: GRID.index_to_world('abc'),
    lambda: GRID.index_to_world([np.nan,0,0]),
    lambda: Space(5),
    lambda: Space.field(None),
    lambda: Space.field(GRID,components=2),
    lambda: Fourier(COMPLEX,axes=1),
    lambda: Fourier(COMPLEX,axes=(1.0,)),
    lambda: Fourier(COMPLEX,axes='ab'),
    lambda: Fourier(COMPLEX,signs=(1.9,1,1)),
    lambda: Fourier(COMPLEX,zero_phase=1.0),
    lambda: FiniteDifferences(REAL,axes=1),
    lambda: Blur(REAL,GaussianPSF(torch.tensor(2.))),
    lambda: Blur(REAL,GaussianPSF(None)),
    lambda: DeviceFrame('IMAGE'),
    lambda: DeviceFrame.from_axes((1,0,0),(0,1,0),(0,0,1),origin=(1,2)),
    lambda: DeviceFrame().points_to_world([1,2]),
    lambda: DeviceFrame().points_to_world([np.nan,1,2]),
    lambda: ParallelBeamGeometry((0.,),4,1.,frame=None),
    lambda: ParallelBeamGeometry(['a'],4,1.),
    lambda: ParallelBeamGeometry([1j],4,1.),
    lambda: ParallelBeamGeometry((0.,),4,1.).with_(typo=3),
    lambda: ParallelBeamGeometry.around(GRID,'a'),
    lambda: ParallelBeamGeometry.around(GRID,None),
    lambda: SAME.to('gpu'),
    lambda: SAME.to(None),
    lambda: Diagonal(REAL,torch.ones(5,requires_grad=True)),
    lambda: Blur(REAL,torch.ones(3,requires_grad=True)),
    lambda: torch.tensor(2.,requires_grad=True)*GRADIENT,
    lambda: GRADIENT.normal_solve(IMAGE,[1.,2.]),
    lambda: GRADIENT.normal_solve(IMAGE,np.array([1.])),
    lambda: GRADIENT.normal_solve(IMAGE,1.,start=3),
    lambda: GRADIENT.normal_solve(IMAGE.numpy(),1.),
    lambda: SAME.pinv(IMAGE,cutoff='a'),
    lambda: GRADIENT.norm(tolerance=-1),
    lambda: GRADIENT.norm(seed=1.5),
    lambda: GRADIENT.gram_trace(probes=1),
    lambda: cg.conjugate_gradient(lambda v: v,torch.ones(3)),
    lambda: cg.conjugate_gradient(lambda v: v,torch.ones(1,3)*float('nan')),
    lambda: SliceWise(SAME,GRID),
    lambda: SliceWise(3,GRID),
    lambda: SliceWise(Identity(Space((3,))),GRID),
    lambda: Identity(3),
    lambda: Diagonal(3,IMAGE),
    lambda: FiniteDifferences(None),
    lambda: Fourier(None),
    lambda: CartesianGeometry((2,4,5),(6,4,10)).operator(None),
    lambda: ParallelBeamGeometry((0.,),4,1.).operator(None),
    lambda: CartesianGeometry.around(None),
    lambda: ParallelBeamGeometry.around(None,3),
    lambda: Blur(REAL,None),
    lambda: Stack([SAME,3]),
    lambda: SAME@None,
    lambda: GRADIENT(None),
    lambda: Grid.from_nifti((2,2),np.eye(4)),
    lambda: GRID.resample(spacing='a'),
    lambda: GRID.downsample('a'),
    lambda: GRID.pad('a'),
    lambda: TimeAxis('a'),
    lambda: GRID.matches(3),
]
# fmt: on


@pytest.mark.parametrize(
    "mistake", MISTAKES, ids=lambda m: inspect.getsource(m).strip().removeprefix("lambda: ")
)
def test_mistakes_are_named(mistake: Callable[[], object]) -> None:
    with pytest.raises((ValueError, TypeError), match=r"^`[\w.\[\]]+` must .*, got ") as caught:
        mistake()
    ours = caught.traceback[-1].frame.f_globals["__name__"]
    assert ours.startswith("operators."), f"raised in {ours}"


def test_values_of_numpy_are_as_good_as_python_s() -> None:
    Fourier(COMPLEX, signs=np.array([1, -1, 1]))  # type: ignore[arg-type]
    GaussianPSF(np.float32(2))  # type: ignore[arg-type]
    assert len(ParallelBeamGeometry.around(GRID, np.int64(5)).angles) == 5  # type: ignore[arg-type]
    assert GRID.crop((np.int64(0), 0, 0), (1, 2, 3)).shape == (1, 2, 3)
