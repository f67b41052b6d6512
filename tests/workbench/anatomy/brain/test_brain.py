import math

import numpy as np
import pytest
import torch
from torch import Tensor

from operators.grid import Grid
from workbench.anatomy import Brain, Rendered
from workbench.anatomy.brain.tissues import CONTRASTS, Tissue

BRAIN = (Tissue.GREY, Tissue.WHITE, Tissue.CEREBELLAR_GREY, Tissue.CEREBELLAR_WHITE, Tissue.STEM)


def axial(z: float, spacing: float = 2.0) -> Grid:
    count = round(180 / spacing)
    return Grid.from_spacing((1, count, count), spacing, centre=(0, -17, z))


@pytest.fixture(scope="module")
def volumes() -> list[Rendered]:
    subjects = [Brain.draw(seed, contrast="t1", skull=seed == 0) for seed in range(2)]
    return [subject.render(subject.grid(2.5), supersample=1) for subject in subjects]


def share(rendered: Rendered, *tissues: Tissue) -> float:
    """Return the volume of tissues in ml."""
    labels = rendered.labels
    count = sum(int((labels.data == int(tissue)).sum()) for tissue in tissues)
    return count * labels.grid.voxel_volume / 1000


def mean(rendered: Rendered, *tissues: Tissue) -> float:
    chosen = sum((rendered.labels.data == int(tissue)) for tissue in tissues).bool()
    return float(rendered.image.data[chosen].mean())


def test_the_same_seed_is_the_same_subject_and_another_is_not() -> None:
    grid = axial(10, 3.0)
    first, again, other = (Brain.draw(seed).render(grid, supersample=1).image.data for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_a_slice_shows_what_the_volume_shows_there() -> None:
    brain = Brain.draw(1, contrast="t2", skull=True, lesions=1)
    grid = Grid.from_spacing((12, 40, 36), (4.0, 5.0, 5.0), centre=(3, -10, 0))
    whole = brain.render(grid, supersample=1)
    for axis, index in ((0, 7), (1, 20), (2, 15)):
        cut = brain.render(grid.slice_at(axis, index), supersample=1)
        assert torch.equal(cut.labels.data, whole.labels.data.narrow(axis, index, 1))
        torch.testing.assert_close(cut.image.data, whole.image.data.narrow(axis, index, 1), rtol=0, atol=1e-5)


def test_an_oblique_slice_shows_the_same_points() -> None:
    brain = Brain.draw(2, contrast="t1", skull=True)
    turn = math.radians(25)
    affine = np.eye(4)
    affine[:3, 0] = [0, -4 * math.sin(turn), 4 * math.cos(turn)]
    affine[:3, 1] = [0, 3 * math.cos(turn), 3 * math.sin(turn)]
    affine[:3, 2] = [3, 0, 0]
    affine[:3, 3] = [-80, -95, -30]
    grid = Grid((1, 60, 54), affine)
    rendered = brain.render(grid, supersample=1)
    index = np.array([(0, 30, 20), (0, 10, 27), (0, 44, 31)])
    values, labels = brain.values(torch.from_numpy(grid.index_to_world(index)))
    for k, (i, j, m) in enumerate(index):
        assert float(rendered.image.data[i, j, m]) == pytest.approx(float(values[k]), abs=1e-5)
        assert int(rendered.labels.data[i, j, m]) == int(labels[k])
    assert set(torch.unique(rendered.labels.data).tolist()) >= {0, 1, 13, 15, 16}


def test_the_skull_does_not_change_the_brain() -> None:
    grid = axial(20, 3.0)
    with_skull, without = (
        Brain.draw(3, contrast="t2", skull=s).render(grid, supersample=1) for s in (True, False)
    )
    inside = sum((without.labels.data == int(tissue)) for tissue in BRAIN).bool()
    difference = (with_skull.image.data - without.image.data)[inside].abs()
    assert float(difference.quantile(0.98)) < 1e-5


def test_a_stripped_brain_has_nothing_outside() -> None:
    brain = Brain.draw(4, skull=False, contrast="t1")
    rendered = brain.render(brain.grid(4.0), supersample=1)
    around = [
        tissue for tissue in Tissue if Tissue.SKIN <= tissue <= Tissue.NERVE and tissue is not Tissue.DURA
    ]
    assert share(rendered, *around) == 0
    edges = [rendered.image.data.select(axis, index) for axis in range(3) for index in (0, -1)]
    assert all(float(edge.abs().max()) == 0 for edge in edges)
    assert float((rendered.image.data[rendered.labels.data == 0] > 0.6).sum()) == 0


def test_tissues_have_the_volumes_of_a_head(volumes: list[Rendered]) -> None:
    for rendered in volumes:
        assert 500 < share(rendered, Tissue.GREY, Tissue.CEREBELLAR_GREY) < 1000
        assert 330 < share(rendered, Tissue.WHITE, Tissue.CEREBELLAR_WHITE) < 750
        assert 60 < share(rendered, Tissue.CSF) < 450
        assert 5 < share(rendered, Tissue.VENTRICLE) < 90
        assert 80 < share(rendered, Tissue.CEREBELLAR_GREY, Tissue.CEREBELLAR_WHITE) < 190
        assert 18 < share(rendered, Tissue.STEM) < 55
    assert share(volumes[0], Tissue.FAT) > 100
    assert share(volumes[0], Tissue.BONE) > 100


def test_the_cortex_is_two_to_four_millimetres_thick() -> None:
    """From pia to white matter the depth runs through the ribbon at one mm per mm."""
    brain = Brain.draw(7, contrast="t1", skull=False)
    grid = Grid.from_spacing((40, 120, 100), 1.0, centre=(0, -17, 40))
    labels = brain.render(grid, supersample=1).labels.data
    grey, white = labels == int(Tissue.GREY), labels == int(Tissue.WHITE)
    # A sheet of thickness t has the volume t times its area; the white side's area from its faces, of which
    # a random orientation shows 3/2 of the true area.
    faces = sum(
        int((grey.narrow(axis, 1, n - 1) & white.narrow(axis, 0, n - 1)).sum())
        + int((white.narrow(axis, 1, n - 1) & grey.narrow(axis, 0, n - 1)).sum())
        for axis, n in enumerate(labels.shape)
    )
    # Gyri are convex seen from within: the middle of the ribbon is larger than its white side.
    thickness = int(grey.sum()) / (faces / 1.5)
    assert 2.0 < thickness < 5.0
    assert 2.0 < brain.inner.cortex.thickness < 4.0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_contrasts_have_their_order(seed: int) -> None:
    order = {}
    for contrast in CONTRASTS:
        rendered = Brain.draw(seed, contrast=contrast, skull=True).render(axial(18, 2.5), supersample=1)
        order[contrast] = [mean(rendered, tissue) for tissue in (Tissue.GREY, Tissue.WHITE, Tissue.VENTRICLE)]
    for contrast in ("t1", "t1c"):
        grey, white, csf = order[contrast]
        assert white > grey > csf
    for contrast in ("t2", "t2s"):
        grey, white, csf = order[contrast]
        assert csf > grey > white
    grey, white, csf = order["flair"]
    assert grey > white > 2 * csf
    assert order["pd"][0] > order["pd"][1]


@pytest.mark.parametrize("kind", ["stroke", "ms", "tumour"])
def test_lesions_are_where_they_say_with_their_contrast(kind: str) -> None:
    plain = Brain.draw(11, contrast="t2", skull=False)
    brain = Brain.draw(11, contrast="t2", skull=False, lesions=2, lesion_kinds=(kind,))
    assert len(brain.lesions) == 2
    for lesion in brain.lesions:
        assert lesion.kind == kind
        around = Grid.from_spacing((5, 5, 5), lesion.radius / 12, centre=lesion.centre)
        rendered = brain.render(around, supersample=1)
        found = rendered.labels.data == lesion.label
        assert bool(found[2, 2, 2])
        # A stroke leaves the sulci in it as they are.
        assert int(found.sum()) > 60 if kind == "stroke" else bool(found.all())
        host = Tissue(int(plain.values(torch.tensor([lesion.centre]))[1]))
        before = plain.signals[host] * _gain(plain, lesion.centre)
        assert float(rendered.image.data[found].mean()) - before == pytest.approx(lesion.contrast, abs=0.12)
        beyond = [c + 4 * lesion.radius * (i == 2) for i, c in enumerate(lesion.centre)]
        values = [b.values(torch.tensor([beyond]))[0] for b in (plain, brain)]
        if math.dist(*(other.centre for other in brain.lesions)) > 8 * lesion.radius:
            assert torch.equal(*values)


def test_a_lesions_contrast_is_against_what_it_replaced_not_against_white_matter() -> None:
    """Of many lesions some lie in deep nuclei and in the stem, which have signals of their own."""
    hosts, inside = set(), torch.linspace(-0.3, 0.3, 4)
    for seed in range(6):
        brain = Brain.draw(seed, contrast="flair", skull=False, lesions=4)
        plain = Brain.draw(seed, contrast="flair", skull=False)
        for lesion in brain.lesions:
            around = torch.cartesian_prod(inside, inside, inside)
            points = torch.tensor(lesion.centre) + lesion.radius * around
            (after, label), (before, host) = brain.values(points), plain.values(points)
            middle = plain.values(torch.tensor([lesion.centre]))[1]
            alike = (label == lesion.label) & (host == middle)
            hosts.add(int(middle))
            assert float((after - before)[alike].mean()) == pytest.approx(lesion.contrast, abs=0.12)
    assert hosts - {int(Tissue.WHITE)}


def _gain(brain: Brain, centre: tuple[float, float, float]) -> float:
    return float(brain._gain(torch.tensor(centre)[:, None]))


def test_any_spacing_and_supersampling_agree_on_average() -> None:
    brain = Brain.draw(9, contrast="pd", skull=False)
    grid = Grid.from_spacing((2, 20, 20), 4.0, centre=(0, -20, 30))
    fine = brain.render(grid, supersample=3).image.data.mean()
    coarse = brain.render(grid, supersample=1).image.data.mean()
    assert float(fine) == pytest.approx(float(coarse), rel=0.04)


def test_the_complex_image_has_the_magnitude() -> None:
    brain, grid = Brain.draw(8, contrast="t1"), axial(0, 4.0)
    image: Tensor = brain.complex_image(grid, supersample=1).data
    assert image.dtype == torch.complex64
    torch.testing.assert_close(
        image.abs(), brain.render(grid, supersample=1).image.data, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "`seed` must be an integer >= 0, got -1"),
        ({"seed": 0, "contrast": "ct"}, "`contrast` must be one of t1, t2, .* got 'ct'"),
        ({"seed": 0, "skull": 1}, "`skull` must be True, False, or None to draw it, got 1"),
        ({"seed": 0, "lesions": -2}, "`lesions` must be an integer >= 0, got -2"),
        (
            {"seed": 0, "lesions": 1, "lesion_kinds": ("nodule",)},
            "`lesion_kinds` must be a tuple of some of stroke",
        ),
        ({"seed": 0, "lesions": 500}, "`lesions` must be few enough to lie apart.*Ask for fewer"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Brain.draw(**arguments)
