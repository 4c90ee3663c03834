import dataclasses
import json
from typing import Any

import pytest

from search_space import Architecture

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
        "scope": [],
        "pinned": [],
        "in_channels": 3,
        "image_size": 8,
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.2, 0.2],
        "classes": ["cat", "dog"],
        "open_channels": {name: list(range(0, size, 2)) for name, size in TINY_WIDTHS.items()},
    }
    return Architecture(**{**fields, **changes})


def test_architecture_survives_json() -> None:
    architecture = _architecture(options={"width": 1.0})
    document = json.loads(json.dumps(architecture.to_json()))
    assert Architecture.from_json(document) == architecture


def test_widths_count_the_open_channels() -> None:
    assert _architecture().widths == {name: size // 2 for name, size in TINY_WIDTHS.items()}


@pytest.mark.parametrize("found", [1, 3, None, "2"])
def test_other_formats_are_refused(found: object) -> None:
    document = {**_architecture().to_json(), "format": found}
    with pytest.raises(ValueError, match=f"architecture format {found!r} is not 2"):
        Architecture.from_json(document)


def test_missing_and_unknown_fields_are_refused() -> None:
    document = _architecture().to_json()
    del document["mean"]
    with pytest.raises(ValueError, match=r"missing or unknown fields: \['mean'\]"):
        Architecture.from_json(document)
    with pytest.raises(ValueError, match=r"missing or unknown fields: \['colour'\]"):
        Architecture.from_json({**_architecture().to_json(), "colour": 1})


def test_records_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        _architecture().supernet = "repvgg_a0"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scope", "backbone"),
        ("scope", [1]),
        ("pinned", None),
        ("supernet", 3),
        ("options", []),
        ("in_channels", True),
        ("std", [0.2, 0.2, 0.0]),
        ("open_channels", {"stages.0.0": ["0"]}),
    ],
)
def test_values_of_the_wrong_type_are_refused(field: str, value: object) -> None:
    document = {**json.loads(json.dumps(_architecture().to_json())), field: value}
    with pytest.raises(ValueError, match=field):
        Architecture.from_json(document)


def test_options_may_be_any_json() -> None:
    options = {"stem": "cifar", "zero_init_residual": True, "layers": [1, 1], "act": None}
    architecture = _architecture(
        supernet="torchvision:resnet18", options=options, scope=["layer1"], pinned=["conv1"]
    )
    assert Architecture.from_json(json.loads(json.dumps(architecture.to_json()))) == architecture
