"""Denoisers side by side on slices: errors in units of sigma, strengths from other slices."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from operators.grid import Grid
from operators.space import Space
from pipelines.quality import denoising as module
from pipelines.quality import subjects
from pipelines.quality.bench import Bench, Folder
from pipelines.quality.cards import card_page, portrait
from pipelines.quality.denoising import LEVELS, denoising, errors
from pipelines.quality.subjects import stand_in
from pipelines.training import pictures
from tests.pipelines.test_quality import weights
from workbench.io.weights import read_card
from workbench.priors.gaussian import SpectralGaussian
from workbench.random import Keys


def test_the_error_of_an_exact_denoiser_is_its_posterior_sd() -> None:
    grid = Grid.plane((48, 48), 2.0)
    prior = SpectralGaussian.smooth(Space.field(grid), sd=0.5, length=1e-3)  # white: E[x | z] = z / (1 + r)
    images: list[tuple[Tensor, Grid]] = [
        (prior.draw(Keys(1, (i,)), like=torch.empty(0))[0], grid) for i in range(2)
    ]
    found = errors(images, lambda space: prior)
    expected = [(0.25 / (0.25 + level**2)) ** 0.5 for level in LEVELS]
    assert found == pytest.approx(expected, rel=0.05)


def test_errors_and_spectra_of_a_prior_come_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="pictures: [io]")
    monkeypatch.setattr(subjects, "FINE", 64)
    monkeypatch.setattr(module, "held_out", lambda modality: (stand_in(modality, 0),))
    monkeypatch.setattr(module, "others", lambda modality: (stand_in(modality, 1),))
    monkeypatch.setattr(module, "DRAWS", 2)
    bench = Bench(Path("nowhere"), Folder(tmp_path / "work"), {"mr": weights(tmp_path, is_complex=True)})
    found = denoising(bench, "mr")
    for name in ("prior", "non-local means", "TV"):
        assert len(found[name]) == len(LEVELS)
        assert all(0 < value < 1.1 for value in found[name])
    assert len(found["spectrum"]["draws"]) == 17
    monkeypatch.setattr(module, "errors", None)  # nothing is computed again
    assert denoising(bench, "mr") == found


def test_a_card_tells_all_and_shows_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="pictures: [io]")
    monkeypatch.setattr(pictures, "COLUMNS", 2)
    bench = Bench(Path("nowhere"), Folder(tmp_path / "work"), {"mr": weights(tmp_path, is_complex=True)})
    card = read_card(bench.file_of("mr"))
    found = {"levels": [0.1, 1.0], "slices": 3, "spectrum": {"cycles_per_mm": [0.0, 0.1, 0.2]}}
    found |= {name: [0.5, 0.25] for name in ("prior", "non-local means", "TV")}
    found["spectrum"] |= {"real": [3.0, 2.0, 1.0], "draws": [3.0, 2.0, 1.0]}
    assert portrait(bench, "mr", found).startswith(b"\x89PNG")
    page = card_page("mr-slice", card, found)
    for told in (card.sha256, "1 to 20 mm", "axial", "| 0.1 | 0.500 | 0.500 | 0.500 |", "complex"):
        assert told in page
