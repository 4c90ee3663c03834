"""Instance segmentation: torchvision's Mask R-CNN, and mean average precision of masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from pas_trainer.data import (
    DATASETS,
    DataConfig,
    InstanceBatch,
    InstanceData,
    InstanceSources,
    load_instances,
    open_instances,
)
from pas_trainer.optim import OptimizerConfig
from pas_trainer.previews import MIN_SCORE, instance_picture, outlined_picture
from pas_trainer.segmentation_metrics import MaskPrecision, detection_error
from pas_trainer.tasks.about import About, TaskData
from pas_trainer.tasks.metric import Metric
from pas_trainer.tasks.task import Prepare, Task
from search_space import (
    DETECTOR_SCOPES,
    Architecture,
    ChannelGraph,
    detector_calls,
    trace_detector,
)

_SHOWN = 4
_SIZES = ("min_size", "max_size")
"""A detector's own arguments: what it resizes images to."""


class InstanceSegmentation(Task):
    """Boxes, classes and masks of objects, by a detector of torchvision's kind.

    The longer side of an image is brought to ``data.image_size``. A detector is searched in its
    backbone, feature pyramid and heads, unless ``supernet.scope`` says otherwise; MACs are those of
    the searched parts on a square image, with as many regions as an image can have.
    """

    metric = Metric("mask_map")
    datasets = DATASETS["instance_segmentation"]
    ignored_hyperparameters = ("label_smoothing",)
    scopes = DETECTOR_SCOPES
    eval_batch = 1  # in a batch, smaller images are padded, which changes answers
    answers = "objects"
    form = "onnx"
    takes_bfloat16 = False  # anchors and boxes would be rounded to whole pixels and more

    def open_data(self, config: DataConfig) -> InstanceSources:
        """See :func:`pas_trainer.data.open_instances`."""
        return open_instances(config)

    def load_data(self, config: DataConfig, device: torch.device) -> InstanceData:
        """See :func:`pas_trainer.data.load_instances`."""
        return load_instances(config, device)

    def preparer(self, data: TaskData, device: torch.device) -> Prepare:  # noqa: ARG002
        """Return what gives images, float32 (3, h, w) in [0, 1], and what is on each."""

        def prepare(batch: InstanceBatch) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
            images = [image.to(device).float() / 255 for image in batch[0]]
            return images, [{k: v.to(device) for k, v in each.items()} for each in batch[1]]

        return prepare

    def forward(self, network: nn.Module, inputs: Any, targets: Any) -> Any:
        """Return the detector's losses by name."""
        return network(inputs, targets)

    def loss(
        self,
        outputs: Mapping[str, Tensor],
        targets: Any,  # noqa: ARG002
        recipe: OptimizerConfig,  # noqa: ARG002
    ) -> Tensor:
        """Return the sum of the detector's losses."""
        return torch.stack([loss.float() for loss in outputs.values()]).sum()

    def num_outputs(self, about: About) -> int:
        """Return the number of classes with the background."""
        return len(about.classes) + 1

    def build(
        self, supernet: str, options: Mapping[str, Any], about: About, *, on_meta: bool = False
    ) -> nn.Module:
        """Build a detector that takes images as large as they come."""
        if not supernet.startswith("import:"):
            options = {**dict.fromkeys(_SIZES, about.image_size), **options}
        return super().build(supernet, options, about, on_meta=on_meta)

    def suit(self, network: nn.Module, about: About) -> nn.Module:
        """Show a detector a square image.

        What pools regions concludes the strides of feature maps from the first image it sees and
        keeps them (torchvision's MultiScaleRoIAlign); from a small oblong one it may conclude
        others.
        """
        if not next(network.parameters()).is_meta:
            with torch.no_grad():
                network.eval()(self.example(about))
            network.train()
        return network

    def example(self, about: About) -> list[Tensor]:
        """Return a list of one square image."""
        return [torch.zeros((about.channels, about.image_size, about.image_size))]

    def trace(
        self, network: nn.Module, about: About, scopes: Sequence[str], pinned: Sequence[str]
    ) -> ChannelGraph:
        """See :func:`search_space.trace_detector`; the heads count once per region."""
        shape = (about.channels, about.image_size, about.image_size)
        return trace_detector(network, shape, scope=scopes, pinned=pinned)

    def check_network(self, network: nn.Module, about: About) -> None:  # noqa: ARG002
        """Check that it is a detector; what it returns depends on what it sees."""
        detector_calls(network)

    def judge(self, about: About, device: torch.device) -> MaskPrecision:  # noqa: ARG002
        """Return what counts mean average precision of masks and boxes."""
        return MaskPrecision()

    def shipped(self, network: nn.Module, architecture: Architecture) -> nn.Module:  # noqa: ARG002
        """Return the detector, which normalises images itself."""
        return network

    def plain(self, batch: InstanceBatch) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        """Return images, float32 (3, h, w) in [0, 1], and what is on each."""
        images = [image.cpu().float() / 255 for image in batch[0]]
        return images, [{k: v.cpu() for k, v in each.items()} for each in batch[1]]

    def error(self, expected: Any, found: Any) -> float:
        """See :func:`pas_trainer.segmentation_metrics.detection_error`."""
        return detection_error(expected, found)

    @torch.inference_mode()
    def preview(
        self, network: nn.Module, data: TaskData, device: torch.device
    ) -> NDArray[np.uint8]:
        """Return some validation images with what is there and what is found."""
        network.eval()
        batch = next(data.validation.eval_batches(_SHOWN))
        found = network(self.preparer(data, device)(batch)[0])
        on_cpu = [{k: v.cpu() for k, v in each.items()} for each in found]
        return instance_picture(list(batch[0]), list(batch[1]), on_cpu, data.classes)

    def draw(
        self, network: nn.Module, image: Image.Image, architecture: Architecture
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Return an image with the objects found, and each one's class, score and box.

        Boxes are (left, top, right, bottom) in pixels of the image as it was given.
        """
        scale = architecture.image_size / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        small = np.array(image.resize((width, height), Image.Resampling.BILINEAR))
        pixels = torch.from_numpy(small).permute(2, 0, 1)
        (found,) = network([pixels.float() / 255])
        sure = found["scores"] >= MIN_SCORE
        back = torch.tensor(image.size).float() / torch.tensor([width, height])
        boxes = found["boxes"][sure] * back.repeat(2)
        objects = [
            {"label": architecture.classes[label - 1], "score": score, "box": box}
            for label, score, box in zip(
                found["labels"][sure].tolist(),
                found["scores"][sure].tolist(),
                boxes.tolist(),
                strict=True,
            )
        ]
        return outlined_picture(pixels, found, architecture.classes), {"objects": objects}
