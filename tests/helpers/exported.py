"""A small network in all its forms, as if it came from a registry, without one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from deploy import content_hash, save_package
from deploy.export_folder import ExportImages
from deploy.manifest import Manifest, describe_folder, write_manifest
from deploy.registered import RegisteredVersion
from pas_trainer import build_compact, reparameterize
from search_space import Architecture

CLASSES = [f"digit {n}" for n in range(10)]


def digits() -> tuple[Tensor, Tensor]:
    """Images uint8 (1797, 1, 8, 8) and labels."""
    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images / 16 * 255).round().to(torch.uint8)
    return pixels.unsqueeze(1), torch.from_numpy(bunch.target)


def small_package(folder: Path) -> Path:
    """A package of random weights that takes digits."""
    sizes = {"stages.0.0": 16, "stages.1.0": 32, "stages.1.1": 32, "stages.2.0": 64}
    architecture = Architecture(
        supernet="repvgg_tiny",
        options={},
        in_channels=1,
        image_size=8,
        mean=[0.3],
        std=[0.35],
        classes=CLASSES,
        open_channels={
            **{name: list(range(0, size, 2)) for name, size in sizes.items()},
            "stages.2.1": list(range(5, 40)),
        },
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_compact(architecture, deploy=False)
    save_package(folder, architecture, reparameterize(network))
    return folder


def registered(package: Path, **tags: str) -> RegisteredVersion:
    return RegisteredVersion(
        model="digits",
        version=3,
        run_id="run-1",
        tags=tags,
        content_hash=content_hash(package),
        location="nowhere",
        tracking_uri="nowhere",
    )


def export_images(*, int8: bool) -> ExportImages:
    pixels, labels = digits()
    return ExportImages(
        parity=pixels[:40].float() / 255,
        words="digits",
        data="digits",
        resize="whole",
        calibration=pixels[:64] if int8 else None,
        validation=(pixels[64:264], labels[64:264]) if int8 else None,
    )


def fake_export(folder: Path, version: int = 3, **files: bytes) -> Manifest:
    """A folder as an export writes it, of any bytes: double underscores are dots."""
    folder.mkdir(parents=True)
    contents = {"architecture.json": b"{}", "weights.safetensors": b"weights", "a.bin": b"\0" * 99}
    contents |= {name.replace("__", "."): content for name, content in files.items()}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    digest = hashlib.sha256()
    for name in ("architecture.json", "weights.safetensors"):
        digest.update(hashlib.sha256(contents[name]).digest())
    manifest = describe_folder(
        folder, model="digits", version=version, content_hash=digest.hexdigest(), resize="whole"
    )
    write_manifest(folder, manifest)
    return manifest
