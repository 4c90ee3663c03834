from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from deploy import (
    PackageError,
    content_hash,
    deployed_network,
    load_architecture,
    load_package,
    save_package,
)
from search_space import Architecture

FILES = {"architecture.json", "weights.safetensors", "training_weights.safetensors"}


class TouchesFile:
    """Makes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_both_forms_come_back_exactly(
    package: Path,
    architecture: Architecture,
    training_network: nn.Module,
    deploy_network: nn.Module,
) -> None:
    assert {path.name for path in package.iterdir()} == FILES
    for deploy, saved in ((True, deploy_network), (False, training_network)):
        loaded_architecture, loaded = load_package(package, deploy=deploy)
        assert loaded_architecture.to_json() == architecture.to_json()
        assert not any(module.training for module in loaded.modules())
        state = loaded.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in saved.state_dict().items())


def test_loading_leaves_the_random_state(package: Path) -> None:
    before = torch.get_rng_state()
    load_package(package)
    assert torch.equal(torch.get_rng_state(), before)


def test_classifier_normalises_images(
    architecture: Architecture, deploy_network: nn.Module, images: Tensor
) -> None:
    classifier = deployed_network(architecture, deploy_network)
    assert torch.equal(classifier(images), deploy_network((images - 0.3) / 0.35))
    assert {name for name, _ in classifier.named_buffers() if "." not in name} == {"mean", "std"}


def test_channels_last_weights_are_saved(
    tmp_path: Path, architecture: Architecture, deploy_network: nn.Module, images: Tensor
) -> None:
    expected = deploy_network(images)
    save_package(tmp_path, architecture, deploy_network.to(memory_format=torch.channels_last))
    _, loaded = load_package(tmp_path)
    torch.testing.assert_close(loaded(images), expected)


def test_saving_again_leaves_nothing_stale(
    package: Path, architecture: Architecture, deploy_network: nn.Module
) -> None:
    save_package(package, architecture, deploy_network)
    assert {path.name for path in package.iterdir()} == FILES - {"training_weights.safetensors"}
    with pytest.raises(PackageError, match=r"training_weights\.safetensors cannot be read"):
        load_package(package, deploy=False)


def test_a_failed_save_leaves_the_old_package(
    package: Path,
    architecture: Architecture,
    deploy_network: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = {path.name: path.read_bytes() for path in package.iterdir()}

    def disk_is_full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", disk_is_full)
    other = dataclasses.replace(architecture, classes=list("abcdefghij"))
    with pytest.raises(OSError, match="No space left"):
        save_package(package, other, deploy_network, None)
    assert {path.name: path.read_bytes() for path in package.iterdir()} == before


def test_a_network_of_another_architecture_is_not_saved(
    tmp_path: Path,
    architecture: Architecture,
    deploy_network: nn.Module,
    training_network: nn.Module,
) -> None:
    wider = {**architecture.open_channels, "stages.2.1": list(range(64))}
    other = dataclasses.replace(architecture, open_channels=wider)
    with pytest.raises(PackageError, match="does not fit the architecture"):
        save_package(tmp_path, other, deploy_network)
    with pytest.raises(PackageError, match="does not fit the architecture"):
        save_package(tmp_path, architecture, training_network)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["architecture.json", "weights.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"\x80\x04 not it", b"[" * 100_000, b"[1]"])
def test_missing_and_corrupt_files_are_named(
    package: Path, name: str, content: bytes | None
) -> None:
    (package / name).unlink()
    if content is not None:
        (package / name).write_bytes(content)
    with pytest.raises(PackageError, match=name.replace(".", r"\.")) as raised:
        load_package(package)
    assert "\n" not in str(raised.value)


def test_truncated_weights_are_refused(package: Path) -> None:
    path = package / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(PackageError, match=r"weights\.safetensors is not a safetensors file"):
        load_package(package)


def test_a_pickle_in_place_of_the_weights_is_not_executed(package: Path, tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    payload = pickle.dumps(TouchesFile(proof))
    pickle.loads(payload)
    assert proof.exists()
    proof.unlink()
    (package / "weights.safetensors").write_bytes(payload)
    with pytest.raises(PackageError, match=r"weights\.safetensors"):
        load_package(package)
    torch.save(TouchesFile(proof), package / "weights.safetensors")
    with pytest.raises(PackageError, match=r"weights\.safetensors"):
        load_package(package)
    assert not proof.exists()


@pytest.mark.parametrize("change", ["drop", "rename", "shape", "dtype"])
def test_weights_that_do_not_fit_are_refused(package: Path, change: str) -> None:
    path = package / "weights.safetensors"
    state = load_file(path)
    bias = state.pop("classifier.bias")
    if change == "rename":
        state["classifier.offset"] = bias
    elif change == "shape":
        state["classifier.bias"] = bias[:-1].clone()
    elif change == "dtype":
        state["classifier.bias"] = bias.half()
    save_file(state, path)
    with pytest.raises(PackageError, match=r"weights\.safetensors does not fit .* classifier\."):
        load_package(package)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", 99),
        ("supernet", "../../etc/passwd"),
        ("supernet", 3),
        ("options", []),
        ("options", {"width": "wide"}),
        ("options", {"num_classes": 3}),
        ("in_channels", 10**30),
        ("in_channels", True),
        ("image_size", 0),
        ("image_size", 10**30),
        ("mean", [10**400]),
        ("mean", [0.1, 0.2]),
        ("mean", float("nan")),
        ("mean", [float("nan")]),
        ("std", [0.0]),
        ("classes", []),
        ("classes", "0123456789"),
        ("scope", "stages"),
        ("scope", ["no.such.module"]),
        ("pinned", ["no.such.group"]),
        ("supernet", "torchvision:resnet18"),
        ("supernet", "torchvision:no_such_network"),
        ("open_channels", {}),
        ("open_channels", {"stages.0.0": 7}),
        ("open_channels", {"stages.0.0": ["0"]}),
        ("extra", "field"),
    ],
)
def test_wrong_documents_are_refused(package: Path, field: str, value: object) -> None:
    path = package / "architecture.json"
    document = {**json.loads(path.read_text()), field: value}
    if field == "in_channels" and value == 10**30:
        document.update(mean=[0.3], std=[0.35])
    path.write_text(json.dumps(document))
    with pytest.raises(PackageError, match=r"architecture\.json is not an architecture"):
        load_package(package)


def test_files_of_the_first_format_are_told_as_such(package: Path) -> None:
    path = package / "architecture.json"
    document = {**json.loads(path.read_text()), "format": 1}
    del document["scope"], document["pinned"]
    path.write_text(json.dumps(document))
    with pytest.raises(PackageError, match=r"architecture format 1 is not 2, .* use the version"):
        load_package(package)


def test_a_package_that_would_run_code_is_refused_unless_asked_for(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    proof = tmp_path / "executed"
    (tmp_path / "my_packaged_net.py").write_text(
        f"import pathlib\npathlib.Path({str(proof)!r}).touch()\n"
        "from search_space import build_supernet\n"
        "def net(num_classes, in_channels):\n"
        "    return build_supernet('repvgg_tiny', num_classes, in_channels)\n"
    )
    path = package / "architecture.json"
    document = {**json.loads(path.read_text()), "supernet": "import:my_packaged_net:net"}
    path.write_text(json.dumps(document))
    with pytest.raises(
        PackageError, match=r"import:my_packaged_net:net, whose code .*allow_import"
    ):
        load_package(package)
    assert not proof.exists()
    _, network = load_package(package, allow_import=True)
    assert proof.exists()
    assert network(torch.rand(1, 1, 8, 8)).shape == (1, 10)


def test_a_document_that_promises_a_huge_network_costs_no_memory(package: Path) -> None:
    path = package / "architecture.json"
    document = json.loads(path.read_text())
    num_classes = 300_000
    document["classes"] = ["x"] * num_classes
    path.write_text(json.dumps(document))
    with pytest.raises(PackageError, match="does not fit the architecture"):
        load_package(package)
    assert len(load_architecture(package).classes) == num_classes


def test_content_hash_covers_architecture_and_weights(
    package: Path, architecture: Architecture, deploy_network: nn.Module
) -> None:
    first = content_hash(package)
    save_package(package, architecture, deploy_network)
    assert content_hash(package) == first
    save_package(
        package, dataclasses.replace(architecture, classes=list("abcdefghij")), deploy_network
    )
    second = content_hash(package)
    with torch.no_grad():
        deploy_network.classifier.bias.add_(1.0)
    save_package(package, architecture, deploy_network)
    assert len({first, second, content_hash(package)}) == 3
    (package / "weights.safetensors").unlink()
    with pytest.raises(PackageError, match=r"weights\.safetensors cannot be read"):
        content_hash(package)
