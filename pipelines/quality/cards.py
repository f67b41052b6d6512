"""A page for each prior that comes with the workbench: what its card says, what it draws, how it denoises.

Page and picture lie beside the weights.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from operators.extras import require
from pipelines.quality.bench import Bench
from pipelines.quality.posed import SEED
from pipelines.quality.subjects import Modality
from pipelines.training.pictures import page_of_draws
from workbench.io.weights import load_weights, read_card
from workbench.priors.network import Card

__all__ = ["card_page", "portrait"]

#: What is plotted and listed of denoising errors.
DENOISERS = ("prior", "non-local means", "TV")


def portrait(bench: Bench, modality: Modality, found: Mapping[str, Any]) -> bytes:
    """Return a PNG: unconditional draws across each axis; below them errors by level, and spectra."""
    require("matplotlib", feature="Pictures of priors", extra="io")
    from matplotlib.figure import Figure

    path = bench.file_of(modality)
    card = read_card(path)
    draws = page_of_draws(load_weights(path, card.architecture.build()), card, SEED)
    figure: Any = Figure(figsize=(9, 6.6), dpi=115, layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(3.4, 3.0))
    shown = above.subplots()
    shown.imshow(draws, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    shown.set_axis_off()
    shown.set_title("unconditional draws: axial, coronal, sagittal", fontsize=9)
    left, right = below.subplots(1, 2)
    for name in DENOISERS:
        left.loglog(found["levels"], found[name], marker=".", label=name)
    left.set(xlabel="sigma", ylabel="rms error / sigma", title="noise on held-out slices")
    spectrum = found["spectrum"]
    for name in ("real", "draws"):
        right.loglog(spectrum["cycles_per_mm"][1:], spectrum[name][1:], label=name)
    right.set(xlabel="cycles per mm", ylabel="power", title="held-out slices and draws")
    for panel in (left, right):
        panel.legend(fontsize=8)
    written = io.BytesIO()
    figure.savefig(written, format="png", pil_kwargs={"optimize": True})
    return written.getvalue()


def card_page(name: str, card: Card, found: Mapping[str, Any]) -> str:
    """Return what there is to know of a prior as text."""
    training, provenance = card.training, card.provenance
    notes = provenance.notes
    slices, measured = notes.get("slices", {}), notes.get("metrics_measured", {})
    low, high = slices.get("spacing", (float("nan"),) * 2)
    facts = (
        ("voxels", f"{low:g} to {high:g} mm; slices are {', '.join(slices.get('axes', ()))}"),
        ("values", f"{'complex' if training.is_complex else 'real'}, {training.units}"),
        ("noise levels", "{:g} to {:g}".format(*training.noise_range) if training.noise_range else ""),
        ("trained on", provenance.data),
        ("steps", str(provenance.steps)),
        ("licence of the weights", provenance.licence),
        ("data by", provenance.attribution),
        ("SHA-256 of the tensors", f"`{card.sha256}` ({card.dtype})"),
    )
    parts = [
        f"# {name}",
        str(notes.get("about", "")),
        "```python\nfrom workbench.shipped import shipped_prior\n\n"
        f'prior = shipped_prior("{name}", grid)\n```',
        _table(("", ""), facts),
        f"![Draws, errors, spectra]({name}.png)",
        f"White noise of sigma taken off {found['slices']} slices of subjects that it was not trained on: rms"
        " error in units of sigma. Non-local means and TV have the strengths that are best for"
        " each level on slices of other subjects.",
        _table(
            ("sigma", *DENOISERS),
            [
                (f"{level:g}", *(f"{found[kind][i]:.3f}" for kind in DENOISERS))
                for i, level in enumerate(found["levels"])
            ],
        ),
        f"Measured while it was trained, on {measured.get('on', 'generated subjects')}:",
        _table(("", ""), [(kind, f"{value:.4g}") for kind, value in provenance.metrics.items()]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
