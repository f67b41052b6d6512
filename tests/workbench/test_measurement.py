"""A measurement gives its calibrated operator; calibrations chain; alternatives are values."""

from __future__ import annotations

import pytest
import torch

from operators.ct import ParallelBeamGeometry
from operators.grid import Grid, TimeAxis
from operators.identity import Identity
from operators.mri.cartesian import CartesianGeometry
from operators.mri.coils import Coils
from operators.space import Space
from workbench.calibration import CentreOfRotation, CoilMaps, Field
from workbench.driver import sample
from workbench.likelihood import Likelihood
from workbench.measurement import Measurement, Provenance
from workbench.noise.gaussian import Gaussian
from workbench.noise.poisson import PoissonTransmission
from workbench.posterior import Posterior
from workbench.priors.flat import Flat
from workbench.solvers.classical.conjugate_gradient import ConjugateGradient

GRID = Grid.plane((8, 8), 2.0)
SCAN = ParallelBeamGeometry.around(GRID, 6)


def image() -> torch.Tensor:
    return torch.arange(64, dtype=torch.float64).reshape(1, 8, 8) / 64


def ct(**changes: object) -> Measurement:
    measurement = Measurement(SCAN.operator(GRID)(image()), SCAN, Gaussian(0.1))
    return measurement.with_(**changes)


def test_its_operator_is_that_of_the_geometry() -> None:
    assert torch.equal(ct().operator(GRID)(image()), ct().data)
    assert float(ct().likelihood(GRID).gradient(image()).abs().max()) < 1e-9


def test_a_centre_of_rotation_is_another_value() -> None:
    half_off = SCAN.axis_at + 0.5
    shifted = ct(calibration=CentreOfRotation(half_off)).operator(GRID)
    assert torch.equal(shifted(image()), SCAN.with_(axis_column=half_off).operator(GRID)(image()))
    assert not torch.equal(shifted(image()), ct().data)
    assert ct(calibration=CentreOfRotation(1.0)).calibration == (CentreOfRotation(1.0),)
    assert CentreOfRotation(1.0).with_(column=2.0) == CentreOfRotation(2.0)


def test_coil_maps_and_a_field_chain() -> None:
    space = Space.field(GRID, is_complex=True)
    maps = torch.polar(
        torch.rand(3, 1, 8, 8, dtype=torch.float64), torch.rand(3, 1, 8, 8, dtype=torch.float64)
    )
    shade = torch.rand(1, 8, 8, dtype=torch.float64) + 0.5
    geometry = CartesianGeometry.around(GRID)
    x = image().to(torch.complex128)
    expected = geometry.operator(GRID, components=(3,))(Coils(space, maps)(shade * x))
    calibration = (CoilMaps(maps, GRID), Field(shade, GRID))
    measurement = Measurement(expected, geometry, Gaussian(0.01), calibration)
    operator = measurement.operator(GRID)
    assert torch.allclose(operator(x), expected)
    posterior = Posterior(Flat(space), measurement.likelihood(GRID))
    found = sample(posterior, ConjugateGradient(200, 1e-10)).tensor()[0]
    assert torch.allclose(found, x, atol=1e-6)
    # What was calibrated on still images serves every frame of a film.
    film = GRID.with_time(TimeAxis(2))
    frames = torch.stack([x, 2 * x])
    data = torch.stack([expected, 2 * expected], dim=1)
    assert torch.allclose(measurement.with_(data=data).operator(film)(frames), data)


def seeded(*shape: int, is_complex: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    dtype = torch.complex128 if is_complex else torch.float64
    return torch.randn(shape, dtype=dtype, generator=generator)


def test_coil_maps_and_fields_in_any_order_are_factors_of_the_image() -> None:
    geometry = CartesianGeometry.around(GRID)
    maps, x = seeded(3, 1, 8, 8, is_complex=True), seeded(1, 8, 8, is_complex=True)
    shade, other = seeded(1, 8, 8), seeded(1, 8, 8) + 2
    coils, bias, light = CoilMaps(maps, GRID), Field(shade, GRID), Field(other, GRID)
    transform = geometry.operator(GRID, components=(3,))
    for order, factor in (
        ((coils, bias), shade),
        ((bias, coils), shade),
        ((bias, coils, light), shade * other),
        ((light, bias, coils), shade * other),
        ((coils, light, bias), shade * other),
    ):
        expected = transform(maps * factor * x)
        operator = Measurement(expected, geometry, Gaussian(1.0), order).operator(GRID)
        assert operator.domain == Space.field(GRID, is_complex=True)
        assert torch.allclose(operator(x), expected)


def test_a_shaded_geometry_takes_components() -> None:
    geometry = CartesianGeometry.around(GRID)
    shade, x = seeded(1, 8, 8), seeded(2, 1, 8, 8, is_complex=True)
    operator = Field(shade, GRID).applied(geometry).operator(GRID, components=(2,))
    assert torch.allclose(operator(x), geometry.operator(GRID, components=(2,))(shade * x))


def test_a_field_and_a_centre_of_rotation_in_any_order() -> None:
    shade, centre = seeded(1, 8, 8), SCAN.axis_at + 0.5
    expected = SCAN.with_(axis_column=centre).operator(GRID)(shade * image())
    field, axis = Field(shade, GRID), CentreOfRotation(centre)
    for order in ((field, axis), (axis, field), (field, axis, Field(torch.ones(1, 8, 8), GRID))):
        assert torch.allclose(ct(calibration=order).operator(GRID)(image()), expected)
    assert axis.applied(field.applied(SCAN)).axis_column == centre


def test_a_calibrated_geometry_has_the_values_of_the_one_inside() -> None:
    geometry = CartesianGeometry.around(GRID)
    coils, bias = CoilMaps(seeded(3, 1, 8, 8, is_complex=True), GRID), Field(seeded(1, 8, 8), GRID)
    x = seeded(1, 8, 8, is_complex=True)
    for order in ((coils,), (bias,), (coils, bias), (bias, coils)):
        calibrated, moved = geometry, geometry.with_(zero_phase=(3.0, 1.0, 0.0))
        for part in order:
            calibrated, moved = part.applied(calibrated), part.applied(moved)
        assert not hasattr(calibrated, "axis_column")
        again = calibrated.with_(zero_phase=(3.0, 1.0, 0.0))
        assert torch.equal(again.operator(GRID)(x), moved.operator(GRID)(x))
        assert not torch.allclose(calibrated.operator(GRID)(x), moved.operator(GRID)(x))


def test_provenance_is_a_record() -> None:
    provenance = Provenance("scan 7", details={"scanner": "A"}).then("dark field subtracted").then("log")
    assert provenance.facts() == {
        "source": "scan 7",
        "steps": ["dark field subtracted", "log"],
        "details": {"scanner": "A"},
    }
    assert ct(provenance=provenance).provenance is provenance


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ct(data=torch.ones(6, 1, 7)).operator(GRID),
            "`data` must have the shape that the geometry predicts",
        ),
        (lambda: ct(data=torch.full_like(ct().data, torch.nan)), "`data` must hold finite values only"),
        (lambda: ct(geometry=SCAN.operator(GRID)), r"`geometry` must have operator\(grid\)"),
        (lambda: ct(noise=0.1), "`noise` must be a Noise, got float. White noise"),
        (lambda: ct(noise=Gaussian(torch.ones(5, 4))).likelihood(GRID), "sigma"),
        (
            lambda: ct(calibration=Gaussian(1.0)),
            "`calibration` must be a Calibration or a sequence of them, got Gau",
        ),
        (lambda: ct(calibration=(3,)), r"`calibration\[0\]` must be a Calibration, got int"),
        (lambda: ct(provenance="a file"), "`provenance` must be a Provenance, got str"),
        (lambda: ct(datta=1), "Did you mean data?"),
        (lambda: Provenance(steps="log"), "`steps` must be a sequence of texts"),
        (lambda: CoilMaps(torch.ones(3, 1, 8, 8), GRID), "`maps` must be complex"),
        (lambda: CoilMaps(torch.ones(1, 8, 8) * 1j, GRID), r"`maps` must have shape \(coils, 1, 8, 8\)"),
        (lambda: Field(torch.ones(1, 8, 7), GRID), r"`values` must have shape \(1, 8, 8\)"),
        (
            lambda: ct(calibration=Field(torch.ones(1, 8, 8), GRID)).operator(GRID.flip(1)),
            "`Field.grid` must be",
        ),
        (
            lambda: Measurement(
                torch.ones(1, 8, 8) * 1j, CartesianGeometry.around(GRID), Gaussian(1.0), CentreOfRotation(3.0)
            ).operator(GRID),
            "belongs to a CT geometry",
        ),
        (
            lambda: CentreOfRotation(3.0).applied(
                Field(torch.ones(1, 8, 8), GRID).applied(CartesianGeometry.around(GRID))
            ),
            "have an axis of rotation, got CartesianGeometry. A centre of rotation belongs to a CT geometry",
        ),
        (
            lambda: ct(calibration=CoilMaps(torch.ones(2, 1, 8, 8) * 1j, GRID)).operator(GRID),
            r"operator\(grid, components=\(coils,\)\), got ParallelBeamGeometry. Coil maps belong to an MRI",
        ),
        *[
            (
                lambda order=order: Measurement(
                    torch.ones(2, 1, 8, 8) * 1j, CartesianGeometry.around(GRID), Gaussian(1.0), order
                ).operator(GRID),
                "`geometry` must be seen through one CoilMaps, got two. Give one",
            )
            for maps in [CoilMaps(torch.ones(2, 1, 8, 8) * 1j, GRID)]
            for field in [Field(torch.ones(1, 8, 8), GRID)]
            for order in [(maps, maps), (maps, field, maps), (field, maps, maps)]
        ],
    ],
)
def test_mistakes(make: object, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "int32", "int64"])
def test_integer_counts_are_kept_as_floats_that_hold_them(dtype: str) -> None:
    counts = torch.full((2, 3), 200, dtype=getattr(torch, dtype))
    value = Likelihood(Identity(Space((2, 3))), PoissonTransmission(torch.tensor([1000])), counts)
    assert value.data.dtype == torch.float32
    assert torch.equal(value.data, counts.float())
    large = torch.full((2, 3), 2**24 + 1, dtype=torch.int64)
    assert Likelihood(Identity(Space((2, 3))), PoissonTransmission(1e8), large).data.dtype == torch.float64
