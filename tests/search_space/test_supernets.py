import dataclasses
import json
from typing import Any

import pytest
import torch

from search_space import (
    REPVGG_VARIANTS,
    Architecture,
    PlainBlock,
    RepVGGBlock,
    SupernetConfig,
    build_architecture,
    build_supernet,
    supernet_names,
)

TINY_WIDTHS = {
    "stages.0.0": 16,
    "stages.1.0": 32,
    "stages.1.1": 32,
    "stages.2.0": 64,
    "stages.2.1": 64,
}


def _architecture(**changes: Any) -> Architecture:
    fields = {
        "supernet": "repvgg_tiny",
        "options": {},
        "in_channels": 3,
        "image_size": 8,
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.2, 0.2],
        "classes": ["cat", "dog"],
        "open_channels": {name: list(range(0, size, 2)) for name, size in TINY_WIDTHS.items()},
    }
    return Architecture(**{**fields, **changes})


def test_every_name_builds() -> None:
    assert supernet_names() == tuple(REPVGG_VARIANTS)
    for name in supernet_names():
        with torch.device("meta"):
            model = build_supernet(name, num_classes=5, in_channels=1)
            assert model(torch.empty(2, 1, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize(
    ("width", "expected"), [(0.5, [8, 16, 32]), (1.25, [20, 40, 80]), (0.001, [1, 1, 1])]
)
def test_width_option_multiplies_every_layer(width: float, expected: list[int]) -> None:
    model = build_supernet("repvgg_tiny", 10, width=width)
    assert [stage[-1].out_channels for stage in model.stages] == expected


@pytest.mark.parametrize("width", [0, -1, 16.5, float("nan"), float("inf")])
def test_width_out_of_range_is_refused(width: float) -> None:
    with pytest.raises(ValueError, match=f"option width of supernet repvgg_tiny is {width}"):
        build_supernet("repvgg_tiny", 10, width=width)


def test_unknown_names_are_refused_with_a_hint() -> None:
    with pytest.raises(ValueError, match="unknown supernet 'repvgg-tiny'; did you mean"):
        build_supernet("repvgg-tiny", 10)
    with pytest.raises(ValueError, match=r"unknown supernet 'zzz'; known: repvgg_tiny, "):
        SupernetConfig(name="zzz")
    with pytest.raises(ValueError, match="unknown option 'depth' of supernet repvgg_a0"):
        SupernetConfig(name="repvgg_a0", options={"width": 1.0, "depth": 2})


def test_supernet_follows_the_global_seed() -> None:
    torch.manual_seed(3)
    first = build_supernet("repvgg_tiny", 10).state_dict()
    torch.manual_seed(3)
    second = build_supernet("repvgg_tiny", 10).state_dict()
    assert all(torch.equal(first[n], second[n]) for n in first)


def test_architecture_survives_json() -> None:
    architecture = _architecture(options={"width": 1.0})
    document = json.loads(json.dumps(architecture.to_json()))
    assert Architecture.from_json(document) == architecture


def test_widths_count_the_open_channels() -> None:
    assert _architecture().widths == {name: size // 2 for name, size in TINY_WIDTHS.items()}


@pytest.mark.parametrize("found", [2, 0, None, "1"])
def test_other_formats_are_refused(found: object) -> None:
    document = {**_architecture().to_json(), "format": found}
    with pytest.raises(ValueError, match=f"architecture format {found!r} is not 1"):
        Architecture.from_json(document)


def test_missing_and_unknown_fields_are_refused() -> None:
    document = _architecture().to_json()
    del document["mean"]
    with pytest.raises(ValueError, match=r"missing or unknown fields: \['mean'\]"):
        Architecture.from_json(document)
    with pytest.raises(ValueError, match=r"missing or unknown fields: \['colour'\]"):
        Architecture.from_json({**_architecture().to_json(), "colour": 1})


@pytest.mark.parametrize(("deploy", "block"), [(True, PlainBlock), (False, RepVGGBlock)])
def test_architecture_builds_in_either_form(deploy: bool, block: type) -> None:
    architecture = _architecture()
    model = build_architecture(architecture, deploy=deploy)
    blocks = {n: m for n, m in model.named_modules() if isinstance(m, PlainBlock | RepVGGBlock)}
    assert {n: b.out_channels for n, b in blocks.items()} == architecture.widths
    assert all(type(b) is block for b in blocks.values())
    assert model.eval()(torch.randn(1, 3, 8, 8)).shape == (1, 2)


def test_fully_open_architecture_is_the_supernet() -> None:
    everything = {name: list(range(size)) for name, size in TINY_WIDTHS.items()}
    rebuilt = build_architecture(_architecture(open_channels=everything), deploy=False)
    supernet = build_supernet("repvgg_tiny", 2)
    rebuilt.load_state_dict(supernet.state_dict())
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(rebuilt(x), supernet(x))


@pytest.mark.parametrize(
    "channels", [[], [3, 2], [1, 1], [-1, 0], [0, 32]], ids=["none", "down", "twice", "low", "high"]
)
def test_open_channels_must_ascend_within_their_group(channels: list[int]) -> None:
    opened = {**_architecture().open_channels, "stages.1.1": channels}
    with pytest.raises(ValueError, match=r"stages\.1\.1 must ascend within 0\.\.31"):
        build_architecture(_architecture(open_channels=opened))


def test_open_channels_must_name_the_groups() -> None:
    opened = dict(_architecture().open_channels)
    del opened["stages.2.1"]
    with pytest.raises(ValueError, match=r"groups of repvgg_tiny: \['stages\.2\.1'\]"):
        build_architecture(_architecture(open_channels=opened))
    opened["stages.9.9"] = [0]
    with pytest.raises(ValueError, match=r"\['stages\.2\.1', 'stages\.9\.9'\]"):
        build_architecture(_architecture(open_channels=opened))


def test_open_channels_follow_the_width_option() -> None:
    with pytest.raises(ValueError, match=r"within 0\.\.7"):
        build_architecture(_architecture(options={"width": 0.5}))


def test_records_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        _architecture().supernet = "repvgg_a0"  # type: ignore[misc]
