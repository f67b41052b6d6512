"""Real CT scans: a tooth at a synchrotron, and a disc of the Helsinki challenge seen over 60 degrees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from workbench.calibrate.centre_of_rotation import find_centre
from workbench.calibrate.rings import remove_rings
from workbench.driver import sample
from workbench.io.data_exchange import read_data_exchange
from workbench.io.htc2022 import HtcScan, read_htc2022
from workbench.posterior import Posterior
from workbench.priors.flat import Flat
from workbench.solvers.analytic.filtered_back_projection import FilteredBackProjection
from workbench.solvers.classical.total_variation import TotalVariation

pytest.importorskip("h5py")
pytest.importorskip("scipy.io")
DATA = Path(__file__).resolve().parents[4] / "shared/data/projections"
pytestmark = pytest.mark.skipif(
    not DATA.exists(), reason="needs the real scans in ../shared/data/projections, which no checkout holds"
)


def test_the_axis_of_the_tooth_is_found_and_its_image_is_sharp() -> None:
    scan = read_data_exchange(DATA / "tooth_parallel/tooth.h5")
    integrals = scan.transmission().line_integrals()
    # The file's angles leave out the end, its views do not: the first and the last are mirror images.
    with pytest.warns(UserWarning, match=r"mirror each other are 179\.0. degrees apart|are 178\.9. degrees"):
        found = find_centre(integrals, scan.angles, rows=1)
    assert abs(found.column - 295.5) < 0.15
    assert found.depth > 0.9
    right = np.linspace(0, np.pi, 181)
    first = read_data_exchange(DATA / "tooth_parallel/tooth.h5", rows=slice(0, 1)).with_(angles=right)
    grid, sharpness = first.grid(pixel=1.0, columns=400), []
    for column in (found.column, 319.5):
        measurement = first.measurement(type(found.calibration)(column), pixel=1.0, law="log")
        likelihood = measurement.likelihood(grid)
        x = sample(Posterior(Flat(likelihood.domain), likelihood), FilteredBackProjection("hann")).tensor()
        inside = x[0, 0][50:350, 50:350]
        # Enamel, dentine and air stand apart where the axis is right.
        values = torch.histc(inside, 60, -0.002, 0.012) / inside.numel()
        sharpness.append(float(values.square().sum()))
    assert sharpness[0] > 1.3 * sharpness[1]
    quiet = remove_rings(integrals, width=5)
    assert (quiet - integrals).square().mean().sqrt() < 0.02


def test_the_disc_of_the_challenge_lies_on_its_reference() -> None:
    image = pytest.importorskip("skimage.io")
    folder = DATA / "htc2022_ta_fan"
    scan = read_htc2022(folder / "htc2022_ta_sparse_example.mat")
    assert (scan.geometry.source_to_detector, scan.geometry.source_to_axis) == (553.74, 410.66)
    assert scan.geometry.columns == 560
    assert np.allclose(np.rad2deg(scan.geometry.angles), np.arange(0, 60.1, 0.5))
    whole = scan.grid()
    reference = torch.from_numpy(
        image.imread(folder / "htc2022_ta_full_recon_fbp_seg.png").astype(np.float32)
    )
    # The projection of the reference is the sinogram, up to the attenuation of the acrylic.
    operator = scan.geometry.operator(whole)
    misfits = []
    for turned in (reference, reference.flip(0), reference.flip(1), reference.T, reference.flip(0, 1)):
        predicted = operator(turned[None])
        scale = float((predicted * scan.sinogram).sum() / predicted.square().sum())
        misfits.append(float((scale * predicted - scan.sinogram).norm() / scan.sinogram.norm()))
    assert misfits[0] < 0.045
    assert min(misfits[1:]) > 2 * misfits[0]


@pytest.mark.filterwarnings("ignore:TotalVariation stopped at a residual")
@pytest.mark.filterwarnings("ignore:the views cover")
def test_sixty_degrees_of_it_show_the_disc() -> None:
    image = pytest.importorskip("skimage.io")
    folder = DATA / "htc2022_ta_fan"
    fine = read_htc2022(folder / "htc2022_ta_sparse_example.mat")
    # Four columns in one, for speed.
    geometry = fine.geometry.with_(columns=140, column_pitch=4 * fine.geometry.column_pitch)
    scan = HtcScan(fine.sinogram.reshape(121, 1, 140, 4).mean(-1), geometry)
    grid = scan.grid(128)
    reference = torch.from_numpy(image.imread(folder / "htc2022_ta_full_recon_fbp_seg.png"))[::4, ::4]
    likelihood = scan.measurement().likelihood(grid)
    posterior, overlaps = Posterior(Flat(likelihood.domain), likelihood), []
    for solver in (FilteredBackProjection("hann"), TotalVariation(1500.0, lower=0.0, iterations=150)):
        inside = sample(posterior, solver).tensor()[0, 0] > 0.017
        overlaps.append(2 * float((inside & reference).sum()) / float(inside.sum() + reference.sum()))
    assert overlaps[1] > 0.85
    assert overlaps[1] > overlaps[0] + 0.05
