import dataclasses
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from pas_trainer import WeightsError, fit_weights, load_weights, read_weights, weights_identity
from search_space import SupernetConfig, build_supernet, build_supernet_on_meta


class TouchesFile:
    """Makes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.fixture
def source() -> dict[str, torch.Tensor]:
    """Trained on 7 classes, say."""
    torch.manual_seed(1)
    return build_supernet("repvgg_tiny", 7).state_dict()


def _config(path: Path | str, **changes: Any) -> SupernetConfig:
    return SupernetConfig(**{"name": "repvgg_tiny", "weights": str(path), **changes})


def _saved(path: Path, state: dict[str, torch.Tensor], wrap: str = "") -> Path:
    if path.suffix == ".safetensors":
        save_file({n: t.contiguous() for n, t in state.items()}, path)
    else:
        torch.save({wrap: state, "epoch": 3} if wrap else state, path)
    return path


@pytest.mark.parametrize(
    ("file", "wrap", "prefix"),
    [
        ("w.safetensors", "", ""),
        ("w.pt", "", ""),
        ("w.pth", "state_dict", ""),
        ("w.pth", "model", "module."),
    ],
)
def test_all_tensors_of_a_file_are_loaded(
    tmp_path: Path, source: dict[str, torch.Tensor], file: str, wrap: str, prefix: str
) -> None:
    path = _saved(tmp_path / file, {prefix + n: t for n, t in source.items()}, wrap)
    network = build_supernet("repvgg_tiny", 7)
    assert load_weights(_config(path), network, 7) == ()
    assert all(torch.equal(t, source[n]) for n, t in network.state_dict().items())


def test_a_classifier_of_another_size_stays_at_random(
    tmp_path: Path, source: dict[str, torch.Tensor]
) -> None:
    path = _saved(tmp_path / "w.safetensors", source)
    network = build_supernet("repvgg_tiny", 10)
    fresh = {n: t.clone() for n, t in network.state_dict().items()}
    left = load_weights(_config(path), network, 10)
    assert left == ("classifier.weight", "classifier.bias")
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, fresh[name] if name in left else source[name]), name


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ("width", r"tensor stages\.0\.0\.\S+ has shape \(16, .*expected \(8, "),
        ("drop", r"tensor stages\.1\.0\.\S+ is missing"),
        ("add", r"tensor stages\.9\.weight is unknown"),
        ("inputs", r"tensor classifier\.weight has shape \(7, 63\), expected \(10, 64\)"),
    ],
)
def test_other_tensors_that_do_not_fit_are_named(
    tmp_path: Path, source: dict[str, torch.Tensor], change: str, parts: str
) -> None:
    options = {"width": 0.5} if change == "width" else {}
    if change == "drop":
        del source[next(n for n in source if n.startswith("stages.1.0.") and "weight" in n)]
    elif change == "add":
        source["stages.9.weight"] = torch.zeros(1)
    elif change == "inputs":
        source["classifier.weight"] = source["classifier.weight"][:, 1:].contiguous()
    config = _config(_saved(tmp_path / "w.safetensors", source), options=options)
    with pytest.raises(WeightsError, match=parts):
        load_weights(config, build_supernet("repvgg_tiny", 10, **options), 10)


def test_files_without_step_counters_are_read(
    tmp_path: Path, source: dict[str, torch.Tensor]
) -> None:
    old = {n: t for n, t in source.items() if not n.endswith("num_batches_tracked")}
    config = _config(_saved(tmp_path / "w.pth", old))
    assert load_weights(config, build_supernet("repvgg_tiny", 7), 7) == ()


@pytest.mark.parametrize("file", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, "cannot be read"),
        (b"no tensors", "are not a file of tensors"),
        (b"hello", "are not a file of tensors"),
    ],
)
def test_unusable_files_are_named(
    tmp_path: Path, file: str, content: bytes | None, parts: str
) -> None:
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(WeightsError, match=parts) as caught:
        read_weights(_config(tmp_path / file))
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_pickled_code_runs(tmp_path: Path) -> None:
    proof, path = tmp_path / "executed", tmp_path / "w.pt"
    torch.save({"weight": TouchesFile(proof)}, path)
    with pytest.raises(WeightsError, match="are not a file of tensors"):
        read_weights(_config(path))
    assert not proof.exists()


def test_a_file_without_a_state_dict_is_told(tmp_path: Path) -> None:
    torch.save([torch.zeros(2)], tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="hold no state_dict"):
        read_weights(_config(tmp_path / "w.pt"))


def test_a_file_is_known_by_its_content(tmp_path: Path, source: dict[str, torch.Tensor]) -> None:
    first = _saved(tmp_path / "a.safetensors", source)
    second = tmp_path / "b.safetensors"
    second.write_bytes(first.read_bytes())
    identity = weights_identity(_config(first))
    assert identity == weights_identity(_config(second))
    source["classifier.bias"] += 1
    _saved(second, source)
    assert identity != weights_identity(_config(second))
    assert weights_identity(_config("x.pt", weights=None)) is None


PUBLISHED = SupernetConfig(name="torchvision:resnet18", weights="IMAGENET1K_V1")


def test_published_weights_load_with_another_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    published = torchvision.models.resnet18().state_dict()
    weights = torchvision.models.ResNet18_Weights
    monkeypatch.setattr(weights, "get_state_dict", lambda _self, **_kwargs: published)
    network = build_supernet("torchvision:resnet18", 10)
    assert load_weights(PUBLISHED, network, 10) == ("fc.weight", "fc.bias")
    assert torch.equal(
        network.state_dict()["layer4.1.conv2.weight"], published["layer4.1.conv2.weight"]
    )


def test_a_hub_out_of_reach_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_args: object, **_kwargs: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", no_network)
    with pytest.raises(WeightsError, match=r"IMAGENET1K_V1 .* cannot be fetched: .*not known"):
        load_weights(PUBLISHED, build_supernet("torchvision:resnet18", 10), 10)


def test_published_weights_are_checked_without_fetching_them() -> None:
    state = read_weights(PUBLISHED, shapes_only=True)
    network = build_supernet_on_meta("torchvision:resnet18", 10)
    assert fit_weights(PUBLISHED, state, network, 10) == ("fc.weight", "fc.bias")
    small = dataclasses.replace(PUBLISHED, options={"stem": "cifar"})
    network = build_supernet_on_meta("torchvision:resnet18", 10, stem="cifar")
    with pytest.raises(WeightsError, match=r"tensor conv1\.weight has shape \(64, 3, 7, 7\)"):
        fit_weights(small, state, network, 10)


def test_weights_for_another_image_scale_are_refused_without_the_option() -> None:
    config = SupernetConfig(name="torchvision:googlenet", weights="DEFAULT")
    state = read_weights(config, shapes_only=True)
    network = build_supernet_on_meta("torchvision:googlenet", 10)
    with pytest.raises(WeightsError, match=r"set options\.transform_input to true"):
        fit_weights(config, state, network, 10)
    config = dataclasses.replace(config, options={"transform_input": True})
    assert fit_weights(config, state, network, 10) == ("fc.weight", "fc.bias")


def test_tensors_of_heads_that_are_off_are_passed_over() -> None:
    config = SupernetConfig(name="torchvision:googlenet", weights="w.pt")
    whole = build_supernet_on_meta("torchvision:googlenet", 10, aux_logits=True)
    network = build_supernet_on_meta("torchvision:googlenet", 10)
    assert isinstance(whole.get_submodule("aux1"), nn.Module)
    assert fit_weights(config, whole.state_dict(), network, 10) == ()


def test_timm_weights_are_checked_without_fetching_them() -> None:
    pytest.importorskip("timm", reason="the timm extra is not installed")
    config = SupernetConfig(name="timm:resnet10t", weights="pretrained")
    state = read_weights(config, shapes_only=True)
    network = build_supernet_on_meta("timm:resnet10t", 10)
    assert fit_weights(config, state, network, 10) == ("fc.weight", "fc.bias")


def test_a_detectors_file_of_other_classes_and_old_names_fits(tmp_path):
    """What depends on the number of classes stays at random; torchvision's first names fit."""
    options = {"width": 0.0625, "fpn_channels": 8, "head_channels": 8}
    published = build_supernet("maskrcnn_resnet18_fpn", 5, **options).state_dict()
    old = {
        name.replace("rpn.head.conv.0.0.", "rpn.head.conv.").replace(
            "mask_head.0.0.", "mask_head.mask_fcn1."
        ): tensor
        for name, tensor in published.items()
    }
    assert old.keys() != published.keys()
    path = tmp_path / "coco.pth"
    torch.save(old, path)
    network = build_supernet("maskrcnn_resnet18_fpn", 2, **options)
    config = SupernetConfig(name="maskrcnn_resnet18_fpn", options=options, weights=str(path))
    left = load_weights(config, network, 2)
    assert {name.split(".")[-2] for name in left} == {"cls_score", "bbox_pred", "mask_fcn_logits"}
    for name, tensor in network.state_dict().items():
        if name not in left:
            assert torch.equal(tensor, published[name]), name


STRANGE = {
    "sparse": lambda t: t.to_sparse(),
    "meta": lambda t: t.to("meta"),
    "whole": lambda t: t.long(),
    "complex": lambda t: t.to(torch.cfloat),
}


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("sparse", r"classifier\.weight is not stored as plain numbers \(torch\.sparse_coo"),
        ("meta", r"classifier\.weight is not stored as plain numbers \(no values\)"),
        ("whole", r"classifier\.weight is torch\.int64, which torch\.float32 cannot stand for"),
        ("complex", r"classifier\.weight is torch\.complex64, which torch\.float32 cannot"),
    ],
)
def test_tensors_that_a_network_cannot_take_as_they_are_are_refused(
    tmp_path: Path, source: dict[str, torch.Tensor], kind: str, sentence: str
) -> None:
    state = {**source, "classifier.weight": STRANGE[kind](source["classifier.weight"])}
    path = _saved(tmp_path / "w.pt", state)
    with pytest.raises(WeightsError, match=sentence):
        load_weights(_config(path), build_supernet("repvgg_tiny", 7), 7)


def test_fewer_digits_and_counters_of_any_kind_are_taken(
    tmp_path: Path, source: dict[str, torch.Tensor]
) -> None:
    state = {n: t.half() for n, t in source.items()}
    path = _saved(tmp_path / "w.pt", state)
    assert load_weights(_config(path), build_supernet("repvgg_tiny", 7), 7) == ()
