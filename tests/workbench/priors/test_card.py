"""A card comes back from its text to the last bit, and says what it cannot read."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import nn

from operators.extras import MissingExtraError
from workbench.paths import AffinePath, StudentT
from workbench.paths.schedules import Flow, MeanReverting, Resfusion, VPCosine
from workbench.priors.network.architecture import Architecture
from workbench.priors.network.calling import Calling, Diffusers, Labelled, Monai, Plain
from workbench.priors.network.card import FORMAT, Card, Provenance
from workbench.priors.network.output import EDMOutput, Label, Output, PathOutput
from workbench.priors.network.training import Training
from workbench.priors.unet import UNet, UNetSettings
from workbench.units import Units

SETTINGS = UNetSettings(widths=(8, 16), blocks=(1, 1), attention=(1,), head_width=8)
MONAI: dict[str, Any] = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 1,
    "channels": [8, 16],
    "attention_levels": [False, True],
    "num_res_blocks": 1,
    "norm_num_groups": 4,
    "num_head_channels": 8,
}
OUTPUTS: tuple[Output, ...] = (
    EDMOutput(0.1 + 0.2),
    EDMOutput(0.5, Label.SIGMA, StudentT(128.0)),
    PathOutput(AffinePath.vp()),
    PathOutput(AffinePath(VPCosine(1 / 3)), "v", "thousandths"),
    PathOutput(AffinePath(Flow(), StudentT(3.0)), "velocity", Label.REVERSED_TIME, negated=True),
    PathOutput(AffinePath.discrete((0.01, 1 / 3, math.pi)), "noise", Label.INDEX, learned_variance=True),
    PathOutput(AffinePath.edm(), "data", Label.SIGMA),
    PathOutput(AffinePath(MeanReverting(7.0, 0.1)), "score"),
    PathOutput(AffinePath(Resfusion()), "noise"),
)
CALLINGS: tuple[Calling, ...] = (
    Plain(),
    Plain(("image", "mask")),
    Labelled(3, ("prior",)),
    Monai(classes=4, context_width=8),
    Diffusers(classes=2, images=("image",)),
)
TRAININGS = (
    Training(),
    Training((64, 48), (1.0, 0.7), 2, False, Units(1000.0, -1000.0, "HU"), (-1.0, 1.0), 0.5, (0.002, 80.0)),
    Training(
        (8, 9, 10), (3.0, 1 / 3, 0.5), is_complex=True, noise_range=(0.0, math.inf), calibrated_score=False
    ),
    Training(data_range=(0.0, math.inf)),
)


def card(**changes: Any) -> Card:
    return Card(Architecture("UNet", SETTINGS.to_dict()), EDMOutput(0.5)).with_(**changes)


def broken(*path: str, value: Any) -> dict[str, Any]:
    """Return the facts of a card with one entry changed."""
    facts: dict[str, Any] = card().facts()
    inner = facts
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return facts


@pytest.mark.parametrize(
    "changes",
    [
        *({"output": output} for output in OUTPUTS),
        *({"calling": calling} for calling in CALLINGS),
        *({"training": training} for training in TRAININGS),
        {"sha256": "0123456789abcdef" * 4, "dtype": "float16"},
        {"architecture": Architecture("MyOwn")},
        {
            "provenance": Provenance(
                data="1000 chests, ünïcode",
                licence="CC-BY-4.0",
                attribution='"A" & B \ud800',
                steps=10**12,
                metrics={"PSNR": 1 / 3, "loss": 5e-324},
                notes={"inf": "inf", "nested": {"list": (1, [2.5, None, True], "ü")}},
            )
        },
    ],
    ids=repr,
)
def test_a_card_comes_back_from_its_text_to_the_last_bit(changes: dict[str, Any]) -> None:
    written = card(**changes)
    back = Card.from_text(written.text())
    assert back == written
    assert hash(back) == hash(written)
    assert back.text() == written.text()
    for name in ("output", "calling", "training"):
        assert type(getattr(back, name)) is type(getattr(written, name))


def test_a_card_is_strict_json() -> None:
    text = card(training=Training(noise_range=(0.0, math.inf))).text()

    def refuse(name: str) -> float:
        raise AssertionError(name)

    facts = json.loads(text, parse_constant=refuse)
    assert list(facts) == [
        "format",
        "architecture",
        "output",
        "calling",
        "training",
        "provenance",
        "tensors",
    ]
    assert facts["format"] == FORMAT


def test_fields_that_an_older_card_lacks_have_their_defaults() -> None:
    facts = card(output=OUTPUTS[4], training=TRAININGS[1]).facts()
    del facts["output"]["negated"], facts["training"]["data_sd"], facts["provenance"]["metrics"]
    back = Card.from_facts(facts)
    assert back.output == OUTPUTS[4].with_(negated=False)  # type: ignore[attr-defined]
    assert back.training == TRAININGS[1].with_(data_sd=None)


def test_what_a_card_holds_does_not_change_with_what_it_was_made_of() -> None:
    metrics, settings = {"a": 1.0}, {"widths": [1, 2]}
    made = card(provenance=Provenance(metrics=metrics), architecture=Architecture("Mine", settings))
    metrics["a"] = 2.0
    settings["widths"].append(3)
    assert made.provenance.metrics == {"a": 1.0}
    assert made.architecture.settings == {"widths": [1, 2]}


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (broken("format", value=FORMAT + 1), f"format up to {FORMAT}.*later version.*install"),
        (broken("format", value=0), "begin with its format"),
        (broken("format", value=True), "begin with its format"),
        (broken("format", value="1"), "begin with its format"),
        (broken("traning", value={}), "'traning'. Did you mean training?"),
        (broken("zzz", value={}), "'zzz'. Did a later version"),
        (broken("output", value=[]), "`card.output` must be an object of JSON"),
        (broken("output", "name", value="EDMOutptu"), "'EDMOutptu'. Did you mean EDMOutput?"),
        (broken("output", "name", value="Card"), "name among PathOutput, EDMOutput, got 'Card'"),
        (broken("output", "name", value=["EDMOutput"]), "name among PathOutput, EDMOutput"),
        (broken("output", "sigma_dta", value=1.0), "'sigma_dta'. Did you mean sigma_data?"),
        (broken("output", "sigma_data", value=-1.0), "`sigma_data` must be a finite number > 0"),
        (broken("output", "sigma_data", value={"a": 1}), "`card.output`"),
        (broken("output", "label", value="index"), "`label` must be log_sigma or sigma"),
        (
            broken("output", "noise", value={"name": "Cauchy"}),
            "name among GaussianLaw, StudentT, got 'Cauchy'",
        ),
        (broken("calling", "name", value="eval"), "name among Plain, Labelled, Monai, Diffusers"),
        (broken("calling", "images", value="image"), "`images` must be a tuple of names"),
        (broken("training", "size", value=[0, 1]), "size"),
        (broken("training", "units", value={"scale": 0}), "`scale` must be a finite number > 0"),
        (broken("training", "units", value=3), "units"),
        (broken("provenance", "steps", value=-1), "`steps` must be an integer >= 0"),
        (broken("provenance", "metrics", value={"a": "b"}), "metrics"),
        (broken("provenance", "licence", value=None), "`licence` must be text"),
        (broken("architecture", "name", value=3), "`name` must be the text"),
        (broken("tensors", "sha256", value="abc"), "`sha256` must be 64 hexadecimal digits"),
        (broken("tensors", "sha256", value=3), "`sha256` must be 64 hexadecimal digits"),
        (broken("tensors", "sha265", value=""), "Did you mean sha256?"),
        (broken("tensors", value={}), "`card.tensors` must hold sha256, dtype"),
    ],
)
def test_a_card_that_cannot_be_read_says_where(facts: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        Card.from_text(json.dumps(facts))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "`card` must be JSON"),
        ("{", "`card` must be JSON"),
        ("[]", "`card` must be an object of JSON"),
        ("{}", "begin with its format"),
        ('{"format": 1}', "got none of the name 'architecture'"),
        ('{"format": 1, "format": 2}', "a key is there twice"),
        ('{"format": NaN}', "NaN is no number of JSON"),
        ("[" * 100_000, "`card` must be JSON"),
        ('{"format": ' + "9" * 5000 + "}", "card"),
    ],
)
def test_text_that_is_no_card_is_refused(text: str, said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        Card.from_text(text)


class Mine(Plain):
    """A calling of one's own."""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"calling": Mine()}, "`calling` must be one of Plain"),
        ({"output": PathOutput(AffinePath(type("Own", (Flow,), {})()))}, "`path` must be made of"),
    ],
)
def test_what_others_could_not_read_is_not_written(changes: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        card(**changes).text()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"output": Plain()}, "`output` must be of type Output, got Plain"),
        ({"training": None}, "`training` must be of type Training"),
        ({"outptu": EDMOutput()}, "Did you mean output?"),
    ],
)
def test_parts_of_a_card_are_checked(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        card(**changes)


@pytest.mark.parametrize("notes", [{"a": math.nan}, {"a": {1}}, {1: 2}, [1], {"a": torch.ones(1)}], ids=repr)
def test_notes_are_json(notes: Any) -> None:
    with pytest.raises(TypeError, match="`notes` must"):
        Provenance(notes=notes)


@pytest.mark.parametrize("steps", [1.5, True, -1])
def test_steps_are_counted(steps: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="`steps` must be an integer >= 0"):
        Provenance(steps=steps)


def test_the_own_network_is_built_from_its_settings() -> None:
    module = UNet(SETTINGS)
    architecture = Architecture.of(module)
    assert architecture.is_known
    twin = Architecture("UNet", architecture.settings).build()
    assert isinstance(twin, UNet) and twin.settings == SETTINGS


def test_monai_is_built_without_the_random_state() -> None:
    pytest.importorskip("einops", reason="MONAI's DiffusionModelUNet needs einops")
    pytest.importorskip("monai", reason="needs the [train] extra")
    before = torch.get_rng_state()
    module = Architecture("monai.DiffusionModelUNet", MONAI).build()
    assert type(module).__name__ == "DiffusionModelUNet"
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match="'chanels'. Did you mean channels?"):
        Architecture("monai.DiffusionModelUNet", {"chanels": [8]}).build()
    with pytest.raises(ValueError, match="`settings` must build a DiffusionModelUNet"):
        Architecture("monai.DiffusionModelUNet", {**MONAI, "channels": [7, 9]}).build()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Unet", "Did you mean UNet?"),
        ("os.system", "module="),
        ("diffusers.UNet1DModel", "diffusers.UNet2DModel"),
    ],
)
def test_only_listed_architectures_are_built(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"one that can be built.*{said}"):
        Architecture(name).build()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    def absent(name: str) -> Any:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(MissingExtraError, match=r"UNet2DModel needs diffusers.*\[diffusers\]"):
        Architecture("diffusers.UNet2DModel").build()


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("", {}, "`name` must be the text"),
        (3, {}, "`name` must be the text"),
        ("A", [1], "`settings` must be a mapping"),
        ("A", {1: 2}, "`settings` must have text as keys"),
        ("A", {"x": math.inf}, "`settings` must be JSON-able"),
    ],
)
def test_an_architecture_is_text_and_json(name: Any, settings: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        Architecture(name, settings)


def test_a_module_that_does_not_know_its_settings_is_described_by_its_owner() -> None:
    with pytest.raises(TypeError, match=r"settings, got Linear. State it: Architecture\('monai"):
        Architecture.of(nn.Linear(1, 1))
    with pytest.raises(TypeError, match="`module` must be a torch.nn.Module"):
        Architecture.of("UNet")  # type: ignore[arg-type]
