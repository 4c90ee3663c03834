from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from torch import Tensor, nn

from deploy import PackageError, deployed_network, load_package
from deploy.candidate import Candidate, open_candidate
from deploy.measuring import measure_candidate, measure_score
from deploy.mlflow_model import save_mlflow_model
from pas_trainer import Classification


class Exported(nn.Module):
    """Stands for an exported program: a classifier and what it does to its input first."""

    def __init__(self, classifier: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.classifier, self.change = classifier, change

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.change(images))


@pytest.fixture
def pixels(images: Tensor) -> Tensor:
    return (images * 16).round().to(torch.uint8) * 15


@pytest.fixture
def candidate(package: Path, images: Tensor) -> Iterator[Candidate]:
    with open_candidate(package, images[:8]) as opened:
        yield opened


def test_a_stored_package_is_measured_in_all_its_forms(candidate, package, images, pixels):
    """Everything about a sound candidate, and then what each defect of it does."""
    classifier = deployed_network(*load_package(package))
    with torch.inference_mode():
        known = classifier(pixels.float() / 255).argmax(dim=1)
    labels = known.clone()
    labels[:13] = (labels[:13] + 1) % 10
    batches = [(pixels[:40], labels[:40]), (pixels[40:], labels[40:])]
    found = measure_candidate(candidate, None, batches, images[:8])
    assert found.num_images == 65
    assert found.score == found.exported_score == (65 - 13) / 65
    assert measure_score(classifier, Classification(), None, batches) == found.score
    assert max(found.training_error, found.exported_error, found.size_error) < 1e-5
    assert (found.faults, found.takes_infinity) == ((), False)
    assert found.latency_ms > 0

    def with_program(change: Callable[[Tensor], Tensor]):
        exported = Exported(candidate.exported, change)
        other = dataclasses.replace(candidate, exported=exported)
        return measure_candidate(other, None, batches, images[:8])

    deaf = with_program(lambda x: x.nan_to_num().clamp(0, 1))
    assert deaf.faults == ("a NaN pixel does not reach the logits of its image",)
    assert deaf.takes_infinity
    mixed = with_program(lambda x: x + 0 * x.sum())
    assert mixed.faults == ("a NaN pixel changes other images of its batch",)
    greedy = with_program(lambda x: nn.functional.interpolate(x, (8, 8)))
    assert greedy.faults == ("images of another height are answered",)
    blind = with_program(lambda x: x[:, :1])
    assert blind.faults == ("images of another number of channels are answered",)
    moody = with_program(lambda x: x * 0.5 if len(x) == 1 else x)
    assert moody.size_error > 1e-3
    assert moody.exported_error < 1e-5

    broken = with_program(lambda x: x * float("nan"))
    assert broken.exported_error != broken.exported_error  # NaN
    assert broken.size_error != broken.size_error

    trained = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    other = dataclasses.replace(candidate, training_network=trained)
    assert measure_candidate(other, None, batches, images[:8]).training_error > 1e-3
    taken = Schema([TensorSpec(torch.zeros(1).double().numpy().dtype, (-1, 1, 8, 8))])
    candidate.model.signature = ModelSignature(inputs=taken)
    (fault,) = measure_candidate(candidate, None, batches, images[:8]).faults
    assert fault == "the signature takes float64 (-1, 1, 8, 8)"


class DependsOnValues(nn.Module):
    """Looks at its images to decide what to do, which no exported program can."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images if images.sum() > 0 else -images)


def test_a_network_that_cannot_be_exported_is_told(package, images, tmp_path) -> None:
    architecture, network = load_package(package)
    classifier = deployed_network(architecture, DependsOnValues(network))
    with pytest.raises(PackageError, match=r"torch\.export cannot export the network") as caught:
        save_mlflow_model(tmp_path / "model", classifier, architecture, package, images)
    assert "\n" not in str(caught.value)


def test_a_package_without_training_weights_is_refused(package: Path, images: Tensor) -> None:
    (package / "training_weights.safetensors").unlink()
    with pytest.raises(PackageError, match="training_weights"), open_candidate(package, images):
        pass


@pytest.mark.parametrize("defect", ["empty", "shape", "dtype", "range", "nan"])
def test_unsuitable_images(package: Path, images: Tensor, defect: str) -> None:
    nan = images.clone()
    nan[0, 0, 0, 0] = float("nan")
    unsuitable = {
        "empty": images[:0],
        "shape": images[:, :, :7],
        "dtype": images.double(),
        "range": images * 255,
        "nan": nan,
    }
    refused = pytest.raises(ValueError, match="images")
    with refused, open_candidate(package, unsuitable[defect]):
        pass
