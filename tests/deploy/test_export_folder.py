from __future__ import annotations

import json
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from exported import CLASSES, digits, export_images, registered, small_package

import deploy.export_folder
from deploy import PackageError, ParityError, deployed_network, load_package
from deploy.export_folder import (
    BATCH_SIZES,
    accuracy,
    check_forms,
    check_free,
    file_names,
    held_export,
    write_export,
)
from deploy.manifest import ManifestError, verify_folder
from deploy.onnx_export import OnnxMissingError, onnx_network, require_onnx
from deploy.quantization import quantize_onnx
from pas_trainer import relative_error


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A complete export, written once; to be read, not changed."""
    root = tmp_path_factory.mktemp("written")
    package = small_package(root / "package")
    out = root / "export"
    version = registered(package, **{"pas.accuracy": "0.5"})
    manifest, checks = write_export(out, version, package, export_images(int8=True))
    architecture, network = load_package(package)
    network = deployed_network(architecture, network)
    return SimpleNamespace(
        out=out,
        package=package,
        registered=version,
        manifest=manifest,
        checks=checks,
        network=network,
    )


def test_the_folder_holds_all_forms_and_they_equal_torch(written) -> None:
    assert verify_folder(written.out) == written.manifest
    assert written.manifest.names == file_names(("onnx", "pt2"), int8=True)
    for name in ("architecture.json", "weights.safetensors"):
        assert (written.out / name).read_bytes() == (written.package / name).read_bytes()
    images = digits()[0][:65].float() / 255
    session = onnxruntime.InferenceSession(written.out / "model.onnx")
    program = torch.export.load(written.out / "model.pt2").module()
    for n in (1, 2, 7, 65):
        with torch.inference_mode():
            expected = written.network(images[:n])
            assert torch.allclose(program(images[:n]), expected, atol=1e-5)
        (found,) = session.run(["logits"], {"images": images[:n].numpy()})
        assert np.allclose(found, expected, atol=1e-4)
    assert set(written.checks.errors) == {"model.onnx", "model.pt2"}
    assert max(written.checks.errors.values()) <= 1e-5


@pytest.mark.parametrize("name", ["model.onnx", "model.int8.onnx"])
def test_an_onnx_file_is_one_file_that_says_what_it_is(written, name) -> None:
    model = onnx.load(written.out / name, load_external_data=False)
    assert model.ir_version <= (10 if "int8" in name else 8)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    session = onnxruntime.InferenceSession(written.out / name)
    found = session.get_modelmeta().custom_metadata_map
    assert json.loads(found.pop("classes")) == CLASSES
    assert found == {
        "task": "classification",
        "image_size": "8",
        "channels": "1",
        "resize": "whole",
        "model": "digits",
        "version": "3",
        "content_hash": written.manifest.content_hash,
    }


def test_no_file_names_a_path_of_this_machine(written) -> None:
    here = str(Path(deploy.export_folder.__file__).parent.parent).encode()
    for path in written.out.iterdir():
        contents = [path.read_bytes()]
        if path.suffix == ".pt2":
            with zipfile.ZipFile(path) as archive:
                contents = [archive.read(name) for name in archive.namelist()]
        for content in contents:
            assert here not in content
            assert b"site-packages" not in content


def test_int8_is_smaller_and_its_accuracy_is_told_as_it_is(written) -> None:
    images, labels = export_images(int8=True).validation
    sizes = {file.name: file.size for file in written.manifest.files}
    assert sizes["model.int8.onnx"] < sizes["model.onnx"]
    weights = onnx.load(written.out / "model.int8.onnx").graph.initializer
    assert sum(w.data_type == onnx.TensorProto.INT8 and len(w.dims) == 4 for w in weights) >= 5
    # One scale per output channel.
    assert any(w.name.endswith("_scale") and list(w.dims) == [8] for w in weights)
    for name, told in written.checks.accuracies.items():
        session = onnxruntime.InferenceSession(written.out / name)
        (logits,) = session.run(None, {"images": (images.float() / 255).numpy()})
        right = float((logits.argmax(axis=1) == labels.numpy()).mean())
        assert told == pytest.approx(right, abs=0.011)  # sums in other batches may end otherwise
    assert written.checks.num_validation == len(labels)


def test_int8_follows_float(written) -> None:
    images = digits()[0][300:400].float() / 255
    both = [onnx_network(written.out / n, 1)(images) for n in ("model.onnx", "model.int8.onnx")]
    spread = float(both[0].std())
    assert 0 < float((both[0] - both[1]).abs().max()) < 0.5 * spread


def test_without_calibration_images_nothing_is_quantized(written, tmp_path) -> None:
    none = torch.empty(0, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match="int8 needs training images"):
        quantize_onnx(written.out / "model.onnx", tmp_path / "q.onnx", none)


def test_only_the_chosen_form_is_written(written, tmp_path) -> None:
    images = export_images(int8=False)
    out = tmp_path / "deep" / "pt2"
    manifest, checks = write_export(
        out, written.registered, written.package, images, formats=["pt2"]
    )
    assert manifest.names == file_names(["pt2"], int8=False)
    assert set(checks.errors) == {"model.pt2"}
    assert "onnxruntime" not in (out / "MODEL_CARD.md").read_text()


def test_a_form_that_differs_is_refused_and_nothing_is_left(written, tmp_path, monkeypatch):
    real = deploy.export_folder.export_program

    def wrong(network, architecture, path):
        other = deployed_network(architecture, network.network)
        other.mean += 0.01
        real(other, architecture, path)

    monkeypatch.setattr(deploy.export_folder, "export_program", wrong)
    images = export_images(int8=False)
    with pytest.raises(ParityError, match=r"model\.pt2, in a batch of 1: .* differ by"):
        write_export(tmp_path / "out", written.registered, written.package, images, formats=["pt2"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "file"), [("onnx", "model.onnx"), ("pt2", "model.pt2")])
def test_a_network_that_a_form_cannot_express_is_told_of_in_one_sentence(
    written, tmp_path, monkeypatch, name, file
):
    class DependsOnValues(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1) if x.sum() > 0 else -x.flatten(1)

    other = DependsOnValues().eval()
    monkeypatch.setattr(deploy.export_folder, "deployed_network", lambda *_: other)
    images = export_images(int8=False)
    with pytest.raises(PackageError, match=rf"no {file} can be made of the network \(") as caught:
        write_export(tmp_path / "out", written.registered, written.package, images, formats=[name])
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong_at", BATCH_SIZES)
def test_every_batch_size_is_compared(wrong_at) -> None:
    def right(images):
        return images.flatten(1)[:, :2]

    def wrong(images):
        return right(images) + 0.01 * (len(images) == wrong_at)

    images = torch.rand(5, 1, 2, 2)
    assert check_forms("f", right, right, images, relative_error) == 0
    with pytest.raises(ParityError, match=f"f, in a batch of {wrong_at}: "):
        check_forms("f", right, wrong, images, relative_error)


def test_accuracy_is_the_share_of_right_answers() -> None:
    images = torch.zeros(130, 1, 1, 2, dtype=torch.uint8)
    images[:, 0, 0, 1] = 1  # class 1 always
    labels = (torch.arange(130) < 13).long()
    assert accuracy(lambda x: x.flatten(1), images, labels) == pytest.approx(0.1)


def test_a_folder_in_use_is_refused(written, tmp_path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ManifestError, match="not empty"):
        write_export(tmp_path, written.registered, written.package, export_images(int8=False))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    (tmp_path / "link").symlink_to(written.out)
    with pytest.raises(ManifestError, match="not empty"):
        write_export(
            tmp_path / "link", written.registered, written.package, export_images(int8=False)
        )


def test_the_working_folder_is_refused_at_once(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ManifestError, match="is the working folder"):
        check_free(Path())


def test_the_same_export_is_known_and_another_one_refused(written, tmp_path) -> None:
    same = {
        "content_hash": written.manifest.content_hash,
        "model": "digits",
        "version": 3,
        "names": written.manifest.names,
    }
    assert held_export(written.out, **same) == written.manifest
    assert held_export(tmp_path / "new", **same) is None
    for odd in ({"version": 4}, {"content_hash": "0" * 64}, {"names": {"model.onnx"}}):
        with pytest.raises(ManifestError, match="holds another export"):
            held_export(written.out, **(same | odd))


def test_a_users_own_code_is_not_run_unasked(written, tmp_path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    for path in written.package.iterdir():
        (package / path.name).write_bytes(path.read_bytes())
    document = json.loads((package / "architecture.json").read_text())
    document["supernet"] = "import:os:getcwd"
    (package / "architecture.json").write_text(json.dumps(document))
    with pytest.raises(PackageError, match="whose code would be run"):
        write_export(tmp_path / "out", written.registered, package, export_images(int8=False))


def test_a_missing_extra_is_told_with_the_way_out() -> None:
    require_onnx()
    with pytest.raises(OnnxMissingError, match=r"no_such_package.*'pas-orchestrator\[onnx\]'"):
        require_onnx("onnx", "no_such_package")


@pytest.mark.parametrize("content", [b"", b"no ONNX", None])
def test_a_file_that_is_no_network_is_told(tmp_path, content) -> None:
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(PackageError, match=r"model\.onnx cannot be run: .*; export it again"):
        onnx_network(tmp_path / "model.onnx")
