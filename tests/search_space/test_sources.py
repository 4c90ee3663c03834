import inspect
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from search_space import SupernetConfig, build_supernet, build_supernet_on_meta
from search_space.sources import torchvision_names

USER_MODULE = """
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes, in_channels=3, *, width=4):
        conv = nn.Conv2d(in_channels, width, 3)
        super().__init__(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))

def fixed():
    return Net(10)

def takes_any(**arguments):
    return Net(**arguments)

def returns_a_dict(num_classes):
    return {"net": Net(num_classes)}

def breaks(num_classes):
    raise KeyError("stage9")

NUMBER = 3
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the working folder, as for ``python -m``."""
    name = f"user_nets_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(USER_MODULE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def test_torchvision_names_are_its_classification_builders() -> None:
    names = torchvision_names()
    assert {"resnet18", "mobilenet_v2", "googlenet", "convnext_tiny"} <= set(names)
    assert not {"fasterrcnn_resnet50_fpn", "deeplabv3_resnet50", "r3d_18", "raft_small"} & set(
        names
    )


def test_a_torchvision_network_is_the_one_its_builder_gives() -> None:
    torch.manual_seed(4)
    ours = build_supernet("torchvision:resnet18", 7, zero_init_residual=True)
    torch.manual_seed(4)
    theirs = torchvision.models.resnet18(num_classes=7, zero_init_residual=True)
    state = theirs.state_dict()
    assert ours.state_dict().keys() == state.keys()
    assert all(torch.equal(t, state[n]) for n, t in ours.state_dict().items())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_are_off_unless_asked_for(name: str) -> None:
    plain = build_supernet_on_meta(f"torchvision:{name}", 5)
    size = 96 if name == "googlenet" else 299
    output = plain(torch.empty(2, 3, size, size, device="meta"))
    assert isinstance(output, torch.Tensor)
    assert output.shape == (2, 5)
    asked = build_supernet_on_meta(f"torchvision:{name}", 5, aux_logits=True)
    assert len(list(asked.parameters())) > len(list(plain.parameters()))


@pytest.mark.parametrize(
    ("name", "options", "parts"),
    [
        ("torchvision:resnt18", {}, r"network or Mask R-CNN 'resnt18'; did you mean"),
        ("torchvision:", {}, r"Mask R-CNN ''; known: alexnet, "),
        ("torchvision:fcn_resnet50", {}, r"unknown torchvision classification network"),
        ("torchvision:resnet18", {"widht": 2}, r"torchvision:resnet18 cannot be built .*'widht'"),
        ("torchvision:resnet18", {"groups": 2}, r"torchvision:resnet18: BasicBlock only supports"),
        ("torchvision:mobilenet_v2", {"round_nearest": 0}, r"cannot be built .* ZeroDivisionError"),
        (
            "torchvision:resnet18",
            {"replace_stride_with_dilation": [False, True, True]},
            r"cannot be built .* NotImplementedError: Dilation > 1 not supported",
        ),
        ("torchvision:resnet18", {"weights": "DEFAULT"}, r"option 'weights' .* cannot be set"),
        ("torchvision:resnet18", {"stem": "mnist"}, r"option stem .* is 'mnist'; known: cifar"),
        ("timm:resnet18", {"checkpoint_path": "x.pt"}, r"option 'checkpoint_path' .* cannot be"),
        ("import:module", {}, r"must have the form import:package\.module:function"),
        ("import:a:b:c", {}, r"must have the form"),
    ],
)
def test_what_cannot_be_built_is_told_in_one_sentence(
    name: str, options: dict[str, Any], parts: str
) -> None:
    with pytest.raises(ValueError, match=parts) as caught:
        build_supernet(name, 10, **options)
    assert "\n" not in str(caught.value)


def test_the_users_function_is_called_with_what_it_accepts(user_module: str) -> None:
    network = build_supernet(f"import:{user_module}:Net", 5, 1, width=6)
    assert [tuple(p.shape) for p in network.parameters()] == [(6, 1, 3, 3), (6,), (5, 6), (5,)]
    assert build_supernet(f"import:{user_module}:takes_any", 5, 1)[0].in_channels == 1
    assert build_supernet(f"import:{user_module}:fixed", 5, 1)[3].out_features == 10


@pytest.mark.parametrize(
    ("function", "parts"),
    [
        ("returns_a_dict", "gave an object of type dict, not a torch.nn.Module"),
        ("breaks", "cannot be built with these options: KeyError: 'stage9'"),
        ("NUMBER", "NUMBER is of type int, it cannot be called"),
        ("Nett", "has no 'Nett'; did you mean Net?"),
    ],
)
def test_a_users_function_that_does_not_work_is_named(
    user_module: str, function: str, parts: str
) -> None:
    with pytest.raises(ValueError, match=f"supernet import:{user_module}:{function}") as caught:
        build_supernet(f"import:{user_module}:{function}", 5)
    assert parts in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_broken_modules_are_told_apart(user_module: str, tmp_path: Path) -> None:
    (tmp_path / "broken_net_module.py").write_text("import module_that_is_nowhere\n")
    (tmp_path / "invalid_net_module.py").write_text("def f(:\n")
    with pytest.raises(ValueError, match=r"there is no module 'nowhere_at_all'; .* working folder"):
        build_supernet("import:nowhere_at_all.nets:f", 5)
    with pytest.raises(ValueError, match="importing broken_net_module failed: No module named"):
        build_supernet("import:broken_net_module:f", 5)
    with pytest.raises(ValueError, match="importing invalid_net_module failed: "):
        build_supernet("import:invalid_net_module:f", 5)


def test_a_sweep_file_is_read_without_running_the_users_code(
    tmp_path: Path, user_module: str
) -> None:
    proof = tmp_path / "executed"
    (tmp_path / "touching_net.py").write_text(
        f"import pathlib\npathlib.Path({str(proof)!r}).touch()"
    )
    SupernetConfig(name="import:touching_net:f")
    assert not proof.exists()


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"pip install 'pas-orchestrator\[timm\]'"):
        SupernetConfig(name="timm:resnet18")


def test_timm_networks() -> None:
    timm = pytest.importorskip("timm", reason="the timm extra is not installed")
    torch.manual_seed(2)
    ours = build_supernet("timm:resnet10t", 6, 1, drop_rate=0.1)
    torch.manual_seed(2)
    theirs = timm.create_model("resnet10t", num_classes=6, in_chans=1, drop_rate=0.1)
    state = theirs.state_dict()
    assert all(torch.equal(t, state[n]) for n, t in ours.state_dict().items())
    with pytest.raises(ValueError, match=r"unknown timm network 'resnt18'; did you mean resnet18"):
        build_supernet("timm:resnt18", 6)
    with pytest.raises(ValueError, match=r"unknown timm network 'hf-hub:someone/model'"):
        build_supernet("timm:hf-hub:someone/model", 6)


def test_signatures_that_cannot_be_read_get_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_function: object) -> inspect.Signature:
        raise ValueError("no signature")

    monkeypatch.setattr(inspect, "signature", refuse)
    with pytest.raises(ValueError, match="unexpected keyword argument"):
        build_supernet("import:torch.nn:ReLU", 3)
