import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

from pas_trainer import attach_gates, build_compact, reparameterize, slice_channels
from search_space import (
    Architecture,
    PlainBlock,
    RepVGGBlock,
    build_supernet,
    trace_channels,
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


@pytest.mark.parametrize(("deploy", "block"), [(True, PlainBlock), (False, RepVGGBlock)])
def test_architecture_builds_in_either_form(deploy: bool, block: type) -> None:
    architecture = _architecture()
    model = build_compact(architecture, deploy=deploy)
    blocks = {n: m for n, m in model.named_modules() if isinstance(m, PlainBlock | RepVGGBlock)}
    assert {n: b.out_channels for n, b in blocks.items()} == architecture.widths
    assert all(type(b) is block for b in blocks.values())
    assert model.eval()(torch.randn(1, 3, 8, 8)).shape == (1, 2)


def test_fully_open_architecture_is_the_supernet() -> None:
    everything = {name: list(range(size)) for name, size in TINY_WIDTHS.items()}
    rebuilt = build_compact(_architecture(open_channels=everything), deploy=False)
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
        build_compact(_architecture(open_channels=opened))


def test_open_channels_must_name_the_groups() -> None:
    opened = dict(_architecture().open_channels)
    del opened["stages.2.1"]
    with pytest.raises(ValueError, match=r"every channel group; .* 'stages\.2\.1'"):
        build_compact(_architecture(open_channels=opened))
    opened["stages.9.9"] = [0]
    with pytest.raises(ValueError, match=r"'stages\.(2\.1|9\.9)'"):
        build_compact(_architecture(open_channels=opened))


def test_open_channels_follow_the_width_option() -> None:
    with pytest.raises(ValueError, match=r"within 0\.\.7"):
        build_compact(_architecture(options={"width": 0.5}))


def test_rebuilding_leaves_the_random_state() -> None:
    before = torch.get_rng_state()
    build_compact(_architecture())
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_pinned_is_pinned_again() -> None:
    opened = dict(_architecture().open_channels)
    del opened["stages.1.0"]
    model = build_compact(_architecture(pinned=["stages.1.0"], open_channels=opened))
    assert model.get_submodule("stages.1.0").out_channels == TINY_WIDTHS["stages.1.0"]
    with pytest.raises(ValueError, match=r"every channel group; .* 'stages\.1\.0'"):
        build_compact(_architecture(open_channels=opened))


def test_a_network_of_the_users_own_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_rebuilt_net.py").write_text(
        textwrap.dedent("""
            from search_space import build_supernet

            def net(num_classes, in_channels, factor):
                return build_supernet("repvgg_tiny", num_classes, in_channels, width=factor)
        """)
    )
    monkeypatch.chdir(tmp_path)
    name = "import:my_rebuilt_net:net"
    torch.manual_seed(0)
    supernet = build_supernet(name, 2, 3, factor=0.5).eval()
    gated = attach_gates(supernet, trace_channels(supernet, torch.empty(1, 3, 8, 8)))
    for gate in gated.gates.values():
        gate.scores.data.copy_(torch.rand(gate.scores.shape))
    architecture = _architecture(
        supernet=name, options={"factor": 0.5}, open_channels=gated.open_channels()
    )
    x = torch.randn(2, 3, 8, 8)
    compact = slice_channels(gated)
    for deploy, form in ((False, compact), (True, reparameterize(compact))):
        rebuilt = build_compact(architecture, deploy=deploy).eval()
        rebuilt.load_state_dict(form.state_dict())
        assert torch.equal(rebuilt(x), form(x))
