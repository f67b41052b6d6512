"""Real scans: the 8-coil brain by ESPIRiT and CG-SENSE, and a phantom that was fully sampled.

The brain's k-space is undersampled as it stands: 5148 of its 41 400 frequencies were measured, in a
Poisson-disc pattern, 8.04 times fewer. There is no fully sampled reference: measured samples that were
left out are predicted instead, and for an error in the image the image found is scanned once more.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from operators.mri.cartesian import CartesianGeometry, SampledCartesianGeometry
from operators.mri.coils import Coils
from operators.space import Space
from workbench.calibrate.coil_compression import compress_coils
from workbench.calibrate.coil_maps import espirit_maps
from workbench.calibrate.prewhitening import outer_kspace_sd
from workbench.calibrate.signal_scale import signal_scale
from workbench.calibration import CoilMaps
from workbench.driver import sample
from workbench.io.ismrmrd import read_ismrmrd
from workbench.io.raw_scan import RawScan
from workbench.kinds import Kind
from workbench.noise.gaussian import Gaussian
from workbench.posterior import Posterior
from workbench.priors.flat import Flat
from workbench.random import Keys
from workbench.solvers.classical.conjugate_gradient import ConjugateGradient

DATA = Path(__file__).resolve().parents[4] / "shared/data/kspace"
pytestmark = pytest.mark.skipif(
    not DATA.exists(), reason="needs the real k-space in ../shared/data/kspace, which no checkout holds"
)


@cache
def brain() -> tuple[RawScan, CoilMaps, Tensor]:
    """Return the scan, its maps and the sd of each real component, coil by coil."""
    with pytest.warns(UserWarning, match=r"87\.6% of the samples .* are exactly zero in every coil"):
        scan = read_ismrmrd(DATA / "ismrmrd/brain8ch.h5", field_of_view=(5.0, 230.0, 180.0))
    assert isinstance(scan, RawScan)
    maps = espirit_maps(scan.kspace, scan.grid, geometry=scan.geometry)
    return scan, maps, outer_kspace_sd(scan.kspace, mask=scan.sampled)[:, None, None, None]


def cg_sense(scan: RawScan, maps: CoilMaps, sd: Tensor, iterations: int) -> Tensor:
    likelihood = scan.measurement(Gaussian(sd), maps).likelihood(scan.grid)
    units = signal_scale(scan.kspace, maps, geometry=scan.geometry)
    posterior = Posterior(Flat(likelihood.domain), likelihood, units=units)
    return sample(posterior, ConjugateGradient(iterations)).tensor()[0]


def relative(x: Tensor, reference: Tensor) -> float:
    return float((x - reference).norm() / reference.norm())


def whole(scan: RawScan) -> CartesianGeometry:
    geometry = scan.geometry
    return geometry.encoding if isinstance(geometry, SampledCartesianGeometry) else geometry


def kept(scan: RawScan, mask: Tensor) -> RawScan:
    return scan.with_(kspace=scan.kspace * mask, averages=scan.averages * mask)


def test_the_maps_of_the_brain() -> None:
    scan, maps, _ = brain()
    energy = maps.maps.abs().square().sum(0)
    assert torch.allclose(energy, (energy > 0.5).to(energy), atol=1e-5)
    assert 0.68 < float(energy.mean()) < 0.74  # measured 0.713: the head and a margin
    zero_filled = whole(scan).operator(scan.grid, components=(8,)).H(scan.kspace)
    combined = (maps.maps.conj() * zero_filled).sum(0)
    # What the maps explain of the coil images; 0.030 is left, noise and all.
    left = zero_filled - maps.maps * combined
    assert float((left.norm() / zero_filled.norm()) ** 2) < 0.04


def test_from_the_file_to_the_image_of_sigpys_sense_reconstruction() -> None:
    scan, maps, _ = brain()
    likelihood = scan.measurement(Gaussian(1.0), maps).likelihood(scan.grid)
    found = sample(Posterior(Flat(likelihood.domain), likelihood), ConjugateGradient(10))
    image = found.mean()
    assert image.grid == scan.grid and found.kind is Kind.POINT_ESTIMATE
    kspace, sensitivities = scan.kspace[:, 0].numpy(), maps.maps[:, 0].numpy()
    app = pytest.importorskip("sigpy.mri").app.SenseRecon(kspace, sensitivities, max_iter=10, show_pbar=False)
    expected = torch.from_numpy(app.run())
    assert relative(image.data[0], expected) < 5e-5  # measured 5e-6: ten iterations in single precision


def test_the_brain_predicts_samples_that_were_left_out() -> None:
    scan, maps, sd = brain()
    generator = torch.Generator().manual_seed(0)
    held = scan.sampled & (torch.rand(scan.matrix, generator=generator) < 0.1)
    held[:, 103:127, 78:102] = False  # the calibration box stays whole
    image = cg_sense(kept(scan, ~held), maps, sd, 10)
    coils = Coils(Space.field(scan.grid, is_complex=True), maps.maps)
    predicted = (whole(scan).operator(scan.grid, components=(8,)) @ coils)(image)
    truth = scan.kspace[:, held]
    error = relative(predicted[:, held], truth)
    noise = float((2 * sd.square().mean()).sqrt() / truth.abs().square().mean().sqrt())
    # Measured 0.297, of which the noise of the samples themselves is 0.218; 1.0 if nothing were known.
    assert noise < error < 0.33


def test_four_times_fewer_lines_of_the_brain() -> None:
    scan, maps, sd = brain()
    transform = whole(scan).operator(scan.grid, components=(8,))
    image = cg_sense(scan, maps, sd, 10)
    full = Gaussian(sd).draw(transform(maps.maps * image)[None], Keys(3, (0,)))[0]
    lines = torch.zeros(230, dtype=torch.bool)
    lines[115 % 4 :: 4] = lines[103:127] = True  # 75 of 230: 4 times, and 24 lines of calibration
    everything = scan.with_(kspace=full, averages=torch.ones_like(scan.averages))
    under = kept(everything, lines[:, None])
    found = espirit_maps(under.kspace, scan.grid, geometry=under.geometry)
    reference = (found.maps.conj() * transform.H(full)).sum(0)
    zero_filled = (found.maps.conj() * transform.H(under.kspace)).sum(0)
    early, late = (relative(cg_sense(under, found, sd, n), reference) for n in (5, 15))
    # Measured 0.196 zero-filled, 0.113 after 5 and 0.174 after 15 iterations. Noise of the reference is 0.042
    # of it, and x sqrt(230 / 75) x the g-factor of 2.3 (median, by replicas) 0.17: no folding is left.
    assert relative(zero_filled, reference) > 0.18
    assert early < 0.125 and late < 0.19


def test_fewer_coils_make_nearly_the_same_image() -> None:
    scan, maps, sd = brain()
    _, matrix = compress_coils(scan.kspace, energy=0.99)
    assert matrix.channels == 5
    compressed = scan.with_(kspace=matrix.apply(scan.kspace))
    image = cg_sense(scan, maps, sd.mean(), 10)
    fewer = cg_sense(compressed, matrix.maps(maps), sd.mean(), 10)
    assert relative(fewer, image) < 0.05  # measured 0.032


def test_the_phantom_from_file_to_image() -> None:
    scan = read_ismrmrd(DATA / "ismrmrd/siemens_gre_phantom.h5", remove_oversampling=True)
    assert isinstance(scan, RawScan) and bool(scan.sampled.all()) and scan.matrix == (1, 160, 160)
    assert scan.grid.spacing == pytest.approx((4.0, 1.25, 1.25))
    maps = espirit_maps(scan.kspace, scan.grid, geometry=scan.geometry)
    images = whole(scan).operator(scan.grid, components=(2,)).H(scan.kspace)
    sd = outer_kspace_sd(scan.kspace)
    # Beside the phantom there is nothing but noise, and F is unitary: 2 x 512 numbers in each coil.
    background = torch.view_as_real(torch.cat([images[:, 0, :16, :16], images[:, 0, -16:, -16:]], 1))
    assert torch.allclose(background.flatten(1).double().std(dim=1), sd, rtol=5 / (2 * 1024) ** 0.5)
    # Fully sampled, A^H A = 1 inside the maps: one iteration is the coil combination.
    combined = (maps.maps.conj() * images).sum(0)
    assert relative(cg_sense(scan, maps, sd.mean(), 3), combined) < 1e-5
    # Its dark bar, a little oblique, and the water below it: what is left of the bar is noise.
    shown = combined.abs()[0]
    assert float(shown[86:89, 60:100].mean()) < 0.3 * float(shown[105:115, 60:120].mean())
