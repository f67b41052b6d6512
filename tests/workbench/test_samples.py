from typing import Any

import numpy as np
import pytest
import torch
import xarray

from operators.grid import Grid
from operators.space import Space
from tests.samples_cases import GRID, MOVIE, SPACES, Counted, samples_of, tensor_of, values
from workbench.kinds import Kind
from workbench.samples import Samples
from workbench.volume import Volume

SMALL = [1, 1000, 10_000, 2**26]


# -- what they are -------------------------------------------------------------------------------------


def test_they_say_what_they_are() -> None:
    samples, x, _ = samples_of(SPACES["real"])
    assert len(samples) == 11
    assert samples.header.count == 11
    assert (samples.kind, samples.unit, samples.frame) == (Kind.EXACT_SAMPLE, "1/mm", "mni")
    assert (samples.grid, samples.dtype, samples.log_weights) == (GRID, torch.float64, None)
    for part in ("11 draws", "exact sample", "1/mm", "float64", "Grid((3, 4, 5)"):
        assert part in repr(samples)
    assert torch.equal(samples.tensor(), x)
    assert "effective size" in repr(samples_of(SPACES["real"], weighted=True)[0])


def test_nothing_that_is_handed_out_changes_them() -> None:
    samples, x, _ = samples_of(SPACES["real"], weighted=True)
    samples.record["seed"] = 4
    samples.log_weights.zero_()  # type: ignore[union-attr]
    samples.tensor().zero_()
    values(samples[0]).zero_()
    assert samples.record == {"seed": 3}
    assert not bool((samples.log_weights == 0).any())
    assert torch.equal(samples.tensor(), x)
    assert bool((x != 0).all())
    with pytest.raises(AttributeError):
        samples.kind = Kind.BEST_OF  # type: ignore[misc]


@pytest.mark.parametrize("name", SPACES)
def test_a_draw_is_a_volume_where_there_is_a_grid(name: str) -> None:
    samples, x, _ = samples_of(SPACES[name])
    one = samples[-2]
    assert torch.equal(values(one), x[9])
    assert isinstance(one, Volume) == (name not in ("many components", "no grid"))
    if isinstance(one, Volume):
        assert (one.grid, one.unit, one.space) == (samples.grid, "1/mm", "mni")
        assert (one.kind, one.statistic) == (samples.kind, "")
        assert one.components == {"vector": ("R", "A", "S"), "components": ("0", "1")}.get(name, ())
    assert all(torch.equal(values(a), b) for a, b in zip(samples, x, strict=True))
    with pytest.raises(IndexError, match=r"there is no draw 11: they are numbered 0\.\.10"):
        samples[11]


def test_weights_are_normalised_whatever_their_size() -> None:
    x = tensor_of(SPACES["real"], 3)
    for shift in (0.0, 1e4, -1e4):
        log_weights = torch.tensor([0.0, np.log(3.0), -np.inf], dtype=torch.float64) + shift
        samples = Samples(x, SPACES["real"], Kind.WEIGHTED_ENSEMBLE, log_weights=log_weights)
        assert samples.weights.tolist() == pytest.approx([0.25, 0.75, 0.0], rel=1e-9)
        assert samples.effective_size == pytest.approx(1 / (0.25**2 + 0.75**2))
    equal = Samples(x, SPACES["real"], Kind.EXACT_SAMPLE)
    assert equal.weights.tolist() == [1 / 3] * 3
    assert equal.effective_size == pytest.approx(3)


# -- what they say together ----------------------------------------------------------------------------


@pytest.mark.parametrize("block_bytes", SMALL)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", SPACES)
def test_mean_and_sd_are_those_of_the_definition(name: str, weighted: bool, block_bytes: int) -> None:
    samples, x, w = samples_of(SPACES[name], weighted=weighted)
    w = w.reshape(-1, *[1] * (x.ndim - 1))
    mean = (w * x).sum(0)
    variance = (w * (x - mean).abs() ** 2).sum(0) / (1 - float((w**2).sum()))
    sd = (variance / (2 if x.is_complex() else 1)).sqrt()
    found = samples.mean(block_bytes=block_bytes), samples.sd(block_bytes=block_bytes)
    assert torch.allclose(values(found[0]), mean, rtol=1e-12, atol=1e-13)
    assert torch.allclose(values(found[1]), sd, rtol=1e-12)
    for result in found:
        if isinstance(result, Volume):
            assert (result.grid, result.unit, result.space) == (samples.grid, "1/mm", "mni")


@pytest.mark.parametrize("block_bytes", SMALL)
@pytest.mark.parametrize("name", [name for name in SPACES if name != "complex"])
def test_quantiles_are_those_of_numpy(name: str, block_bytes: int) -> None:
    samples, x, _ = samples_of(SPACES[name])
    levels = [0.0, 0.05, 0.5, 0.95]
    found = samples.quantile(levels, block_bytes=block_bytes)
    expected = np.quantile(x.numpy(), levels, axis=0)
    assert isinstance(found, list)
    assert np.allclose(torch.stack([values(one) for one in found]), expected, rtol=1e-12, atol=1e-14)
    assert torch.equal(values(samples.quantile(0.5)), values(found[2]))


def test_results_carry_the_kind_and_what_they_are_of_it() -> None:
    samples, _, _ = samples_of(SPACES["real"])
    results = [samples.mean(), samples.sd(), *samples.quantile([0.05, 0.5])]
    assert all(isinstance(one, Volume) and one.kind is samples.kind for one in results)
    found = [one.statistic for one in results if isinstance(one, Volume)]
    assert found == ["mean", "sd", "quantile 0.05", "quantile 0.5"]


def test_results_have_the_precision_of_the_draws() -> None:
    for dtype in (torch.float32, torch.float64):
        samples, _, _ = samples_of(SPACES["complex"], dtype=dtype)
        assert values(samples.mean()).dtype == dtype.to_complex()
        assert values(samples.sd()).dtype == dtype
        real, _, _ = samples_of(SPACES["real"], dtype=dtype)
        assert values(real.quantile(0.1)).dtype == dtype


def test_a_draw_without_weight_has_no_say() -> None:
    x = tensor_of(SPACES["real"], 4)
    log_weights = torch.zeros(4, dtype=torch.float64)
    log_weights[1] = -torch.inf
    with_nan = x.clone()
    with_nan[1] = torch.nan
    samples = Samples(with_nan, SPACES["real"], Kind.WEIGHTED_ENSEMBLE, log_weights=log_weights)
    rest = Samples(x[[0, 2, 3]], SPACES["real"], Kind.EXACT_SAMPLE)
    assert torch.allclose(values(samples.mean()), values(rest.mean()))
    assert torch.allclose(values(samples.sd()), values(rest.sd()))
    assert torch.allclose(values(samples.quantile(0.3)), values(rest.quantile(0.3)))


@pytest.mark.parametrize("weighted", [False, True])
def test_no_more_than_a_block_is_read_at_once_and_nothing_twice(weighted: bool) -> None:
    space = Space.field(Grid.from_spacing((8, 32, 32), 1.0))
    draws = Counted(tensor_of(space, 40, torch.float32))
    log_weights = torch.linspace(0, 1, 40) if weighted else None
    samples = Samples(draws, space, Kind.EXACT_SAMPLE, log_weights=log_weights)
    size = 40 * space.size * 4
    for compute in (
        samples.mean,
        samples.sd,
        lambda block_bytes: samples.quantile(0.5, block_bytes=block_bytes),
    ):
        draws.largest = draws.read_in_all = 0
        compute(block_bytes=2**16)
        assert draws.largest <= 2**16
        assert draws.read_in_all == size


def test_frequencies_of_tokens() -> None:
    space = Space.tokens(MOVIE, 4)
    samples, x, w = samples_of(space, 6, weighted=True)
    for block_bytes in SMALL:
        found = samples.frequencies(block_bytes=block_bytes)
        assert isinstance(found, Volume)
        assert (found.grid, found.unit, found.components) == (MOVIE, "", ("0", "1", "2", "3"))
        expected = torch.stack([(w.reshape(-1, 1, 1, 1, 1) * (x == k)).sum(0) for k in range(4)])
        assert torch.allclose(found.data, expected.float(), atol=1e-6)
        assert torch.allclose(found.data.sum(0), torch.ones(MOVIE.array_shape))
    assert isinstance(samples[0], Volume)


# -- others made of them -------------------------------------------------------------------------------


@pytest.mark.parametrize("pointwise", [False, True])
@pytest.mark.parametrize("block_bytes", SMALL)
def test_a_function_of_every_draw(pointwise: bool, block_bytes: int) -> None:
    samples, x, _ = samples_of(SPACES["complex"])
    magnitude = samples.map(torch.abs, unit="", pointwise=pointwise)
    assert (magnitude.space, magnitude.dtype) == (Space.field(GRID), torch.float64)
    assert (magnitude.unit, magnitude.kind, magnitude.record) == ("", samples.kind, samples.record)
    expected = x.abs()
    assert torch.equal(magnitude.tensor(), expected)
    assert torch.equal(values(magnitude[3]), expected[3])
    assert torch.allclose(values(magnitude.sd(block_bytes=block_bytes)), expected.std(0), rtol=1e-12)
    median = values(magnitude.quantile(0.25, block_bytes=block_bytes))
    assert np.allclose(median, np.quantile(expected.numpy(), 0.25, axis=0), rtol=1e-12)


def test_a_function_may_lead_to_another_space() -> None:
    samples, x, w = samples_of(SPACES["vector"], weighted=True)
    length = samples.map(lambda u: u.norm(dim=0), unit="mm")
    assert (length.space, length.unit) == (Space.field(MOVIE), "mm")
    expected = (w.reshape(-1, 1, 1, 1, 1) * x.norm(dim=1)).sum(0)
    assert torch.allclose(values(length.mean()), expected, rtol=1e-12)
    assert samples.map(lambda u: 2 * u).space == SPACES["vector"]
    total = samples.map(lambda u: u.sum().reshape(1))
    assert (total.space, total.unit) == (Space((1,)), "")
    tokens, labels, _ = samples_of(Space.tokens(GRID, 3), 5)
    share = tokens.map(lambda t: (t == 2).double()).mean()
    assert torch.allclose(values(share), (labels == 2).double().mean(0))
    assert tokens.map(lambda t: (t + 1) % 3).space == tokens.space
    assert samples.map(lambda u: u[0], space=Space.field(MOVIE)).space == Space.field(MOVIE)


def test_a_function_is_applied_to_what_is_needed_only() -> None:
    calls = []

    def double(x: torch.Tensor) -> torch.Tensor:
        calls.append(tuple(x.shape))
        return 2 * x

    samples, _, _ = samples_of(SPACES["real"])
    mapped = samples.map(double)
    assert calls == [(3, 4, 5)]  # tried on the first draw
    _ = mapped[4]
    assert len(calls) == 2
    mapped.sd(block_bytes=1)
    assert len(calls) == 2 + len(samples)


@pytest.mark.parametrize(
    "indices", [[3], [4, 0, 0, 10], [-1, 5], range(2, 9, 3), torch.tensor([1, 2, 3, 7]), np.array([8, 9])]
)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_selection(indices: Any, weighted: bool) -> None:
    samples, x, w = samples_of(SPACES["real"], weighted=weighted)
    chosen = samples.select(indices)
    numbers = [int(k) for k in indices]
    assert torch.equal(chosen.tensor(), x[numbers])
    assert torch.allclose(chosen.weights, w[numbers] / w[numbers].sum())
    assert torch.equal(values(chosen[0]), x[numbers[0]])
    assert torch.equal(chosen.draws.read(slice(0, 0)), x[:0])


def test_masks_and_slices_select() -> None:
    samples, x, _ = samples_of(SPACES["real"])
    mask = torch.arange(11) % 2 == 0
    assert torch.equal(samples.select(mask).tensor(), x[mask])
    assert torch.equal(samples[2:7:2].tensor(), x[2:7:2])
    assert torch.equal(samples[::-1].tensor(), x.flip(0))
    assert torch.equal(samples[5:][1:3].map(torch.neg).select([1]).tensor(), -x[[7]])
    assert samples[:1].quantile(0.3).data.tolist() == x[0].tolist()  # type: ignore[union-attr]


# -- in memory, and as xarray --------------------------------------------------------------------------


def test_what_does_not_fit_in_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, x, _ = samples_of(SPACES["real"])
    monkeypatch.setattr("workbench.samples.available_memory", lambda: x.nbytes - 1)
    with pytest.raises(MemoryError, match=r"the 11 draws take 5.2 KiB, .* Use mean\(\), .*samples\[:8\]"):
        samples.tensor()
    with pytest.raises(MemoryError):
        samples.to_xarray()
    monkeypatch.setattr("workbench.samples.available_memory", lambda: None)
    assert torch.equal(samples.tensor(), x)


def test_as_xarray() -> None:
    samples, x, _ = samples_of(SPACES["vector"], weighted=True)
    dataset = samples.to_xarray()
    assert dataset.draws.dims == ("draw", "component", "t", "z", "y", "x")
    assert np.array_equal(dataset.draws.values, x.numpy())
    assert dataset.component.values.tolist() == ["R", "A", "S"]
    assert dataset.z.values.tolist() == [0.0, 5.0, 10.0]
    assert dataset.z.attrs["units"] == "mm"
    assert dataset.t.values.tolist() == [1.0, 1.5]
    assert np.array_equal(np.reshape(dataset.attrs["affine"], (4, 4)), MOVIE.affine)
    assert torch.equal(torch.from_numpy(dataset.log_weight.values), samples.log_weights)
    assert (dataset.attrs["kind"], dataset.attrs["unit"]) == ("weighted ensemble", "1/mm")
    assert (dataset.attrs["frame"], dataset.attrs["world"]) == ("mni", "RAS, mm")
    assert dataset.draws.attrs == {"units": "1/mm", "kind": "weighted ensemble"}
    mean = dataset.draws.weighted(np.exp(dataset.log_weight)).mean("draw")
    xarray.testing.assert_allclose(
        mean.drop_attrs(), xarray.zeros_like(mean).drop_attrs() + values(samples.mean()).numpy()
    )


@pytest.mark.parametrize("name", SPACES)
def test_axes_of_every_space(name: str) -> None:
    samples, x, _ = samples_of(SPACES[name])
    dataset = samples.to_xarray()
    assert np.array_equal(dataset.draws.values, x.numpy())
    dims = {"many components": ("component_0", "component_1", "z", "y", "x"), "no grid": ("axis_0",)}
    if name in dims:
        assert dataset.draws.dims[1:] == dims[name]
    dataset.draws.values[:] = 0
    assert bool((x != 0).all())
