"""Settings of the U-Net: a value that JSON holds, checked where it is made."""

from __future__ import annotations

import json

import pytest
import torch

from tests.unet_cases import FULL, TINY, trained
from workbench.priors.unet import UNet, UNetSettings


@pytest.mark.parametrize("settings", [UNetSettings(), UNetSettings.volume(), FULL.with_(checkpointing=True)])
def test_settings_come_back_from_json(settings: UNetSettings) -> None:
    assert UNetSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    assert hash(settings) == hash(settings.with_())


def test_a_missing_entry_has_its_default() -> None:
    assert UNetSettings.from_dict({"dims": 3}) == UNetSettings(dims=3)


def test_an_unknown_entry_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"`entries` must have keys among dims, .*got 'width'. Did you mean"):
        UNetSettings.from_dict({"width": [8]})
    with pytest.raises(ValueError, match=r"got '_class_name'. Is it the card of another network\?"):
        UNetSettings.from_dict({"_class_name": "UNet2DModel"})
    with pytest.raises(TypeError, match="`entries` must be what UNetSettings.to_dict"):
        UNetSettings.from_dict([("dims", 2)])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dims": 1}, "`dims` must be 2 or 3, got 1"),
        ({"dims": 2.0}, "`dims` must be an integer"),
        ({"in_channels": 0}, "`in_channels` must be an integer >= 1, got 0"),
        ({"labels": -1}, "`labels` must be an integer >= 0, got -1"),
        ({"widths": ()}, "`widths` must name at least one level"),
        ({"widths": 64}, "`widths` must be a sequence of integers"),
        ({"widths": (8, 0)}, r"`widths\[1\]` must be an integer >= 1, got 0"),
        ({"widths": (8, 18)}, r"`widths` must be multiples of groups = 4, got \(8, 18\)"),
        ({"blocks": (1,)}, r"`blocks` must have one entry for each of 2 widths, got \(1,\)"),
        ({"attention": (2,)}, r"`attention` must name levels 0 to 1, got \(2,\)"),
        ({"head_width": 12}, "`head_width` must divide the width 16 of level 1"),
        ({"embedding": 15}, "`embedding` must be even"),
        ({"frequencies": (2.0, 1.0)}, r"`frequencies` must ascend, got \(2.0, 1.0\)"),
        ({"frequencies": (0.0, 1.0)}, r"`frequencies\[0\]` must be a finite number > 0"),
        ({"frequencies": 1.0}, "`frequencies` must be the lowest and the highest frequency"),
        ({"checkpointing": 1}, "`checkpointing` must be True or False, got 1"),
        ({"width": (8, 8)}, r"`with_` must name one of dims.*Did you mean widths\?"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        TINY.with_(**changes)


def test_a_network_of_something_else_is_refused() -> None:
    with pytest.raises(TypeError, match="`settings` must be a UNetSettings, got dict"):
        UNet(TINY.to_dict())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("widths", "shuffle", "multiple"), [((8,), 1, 1), ((8,), 2, 2), ((8, 8, 8), 1, 4), ((8, 8, 8, 8), 2, 16)]
)
def test_the_size_multiple_is_the_smallest_size_that_works(
    widths: tuple[int, ...], shuffle: int, multiple: int
) -> None:
    network = trained(TINY.with_(widths=widths, blocks=(1,) * len(widths), attention=(), shuffle=shuffle))
    assert network.size_multiple == multiple
    assert torch.isfinite(network(torch.ones(1, 1, multiple, 3 * multiple), torch.zeros(1))).all()
