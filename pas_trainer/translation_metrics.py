"""How close translated images come: to their targets one by one, or to their domain as a whole."""

from __future__ import annotations

import hashlib
import warnings
from typing import Any

import torch
from torch import Tensor, nn

PSNR_CAP_DB = 100.0
"""Of an image that equals its target, whose signal-to-noise ratio would be infinite."""


class ImageQuality:
    """Signal-to-noise ratio and structural similarity, per image and averaged over all images.

    ``psnr_db`` is the peak signal-to-noise ratio, -10 log10 of an image's mean squared error, in
    decibels and at most :data:`PSNR_CAP_DB`. ``ssim`` is the structural similarity (Wang et al.,
    2004; Gaussian windows of 11 pixels), at most 1. Nothing is exchanged with other processes.
    """

    def __init__(self) -> None:
        self._psnr_db: list[Tensor] = []
        self._ssim: list[Tensor] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch.

        Args:
            outputs: (N, C, H, W), cut off to [0, 1]; at least 11 pixels high and wide.
            targets: the same, what they should be.
        """
        from torchmetrics.functional.image import (
            peak_signal_noise_ratio,
            structural_similarity_index_measure,
        )

        pair = [images.detach().double().clamp(0, 1) for images in (outputs, targets)]
        kinds: Any = {"data_range": 1.0, "reduction": "none"}
        psnr_db = peak_signal_noise_ratio(*pair, **kinds, dim=(1, 2, 3))
        ssim = structural_similarity_index_measure(*pair, **kinds)
        self._psnr_db.append(psnr_db.clamp(max=PSNR_CAP_DB).reshape(-1).cpu())
        self._ssim.append(ssim.reshape(-1).cpu())

    def compute(self) -> dict[str, float]:
        """Return ``psnr_db`` and ``ssim``, both the higher the better.

        Raises:
            ValueError: there have been no images.
        """
        if not self._psnr_db:
            raise ValueError("no image has been compared; call update first")
        return {
            "psnr_db": float(torch.cat(self._psnr_db).mean()),
            "ssim": float(torch.cat(self._ssim).mean()),
        }


class PatchDistance:
    """Sliced Wasserstein distance of two sets of images by their patches; lower is better.

    ``swd`` is the mean distance, along 128 random directions, of the sorted patches of 7x7 pixels
    of either set, in standard deviations of the targets' channels (Karras et al., *Progressive
    Growing of GANs*, ICLR 2018, section 5, here on the images as they are rather than on each level
    of a pyramid). It needs no pairs and no network. The same images give the same figure. Nothing
    is exchanged with other processes.
    """

    _PATCH, _PER_IMAGE, _DIRECTIONS = 7, 64, 128

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(0)
        self._patches: tuple[list[Tensor], list[Tensor]] = ([], [])

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add as many images of either set, (N, C, H, W), at least 7 pixels high and wide."""
        size = self._PATCH
        height, width = outputs.shape[2:]
        shape = (self._PER_IMAGE,)
        rows = torch.randint(0, height - size + 1, shape, generator=self._generator).tolist()
        columns = torch.randint(0, width - size + 1, shape, generator=self._generator).tolist()
        for images, kept in zip((outputs, targets), self._patches, strict=True):
            on_cpu = images.detach().float().cpu()
            for row, column in zip(rows, columns, strict=True):
                kept.append(on_cpu[:, :, row : row + size, column : column + size].flatten(2))

    def compute(self) -> dict[str, float]:
        """Return ``swd``.

        Raises:
            ValueError: there have been no images.
        """
        if not self._patches[0]:
            raise ValueError("no image has been compared; call update first")
        made, wanted = (torch.cat(patches) for patches in self._patches)  # (patches, C, 49)
        mean, std = wanted.mean((0, 2), keepdim=True), wanted.std((0, 2), keepdim=True)
        made, wanted = (((p - mean) / std.clamp_min(1e-6)).flatten(1) for p in (made, wanted))
        generator = torch.Generator().manual_seed(1)
        directions = torch.randn(made.shape[1], self._DIRECTIONS, generator=generator)
        directions /= directions.norm(dim=0)
        along = [(patches @ directions).sort(dim=0).values for patches in (made, wanted)]
        return {"swd": float((along[0] - along[1]).abs().mean())}


class KernelDistance:
    """Kernel inception distance (Binkowski et al., 2018) of two sets of images; lower is better.

    ``kid`` is the unbiased squared distance of the two sets' features under the kernel
    (x·y / d + 1)³, averaged over random subsets; near 0, and possibly below, for images of one
    distribution. It needs no pairs. The same images give the same figure. A target that was there
    before counts once: of two domains, the smaller one's images come again and again. Nothing is
    exchanged with other processes.

    Args:
        network: features of a batch of images as given to :meth:`update`, (N, ...). Those of
            Inception-v3, trained on ImageNet, give the published figure.
    """

    _SUBSET_SIZE = 1000  # images of either set; all, if there are fewer
    _SUBSETS = 100  # one, if each would hold all images

    def __init__(self, network: nn.Module) -> None:
        from torchmetrics.image.kid import KernelInceptionDistance

        with warnings.catch_warnings():  # that features are kept, which is what we want
            warnings.simplefilter("ignore", UserWarning)
            self._metric: Any = KernelInceptionDistance(
                _Features(network), sync_on_compute=False, compute_with_cache=False
            )
        self._num_outputs = self._num_targets = 0
        self._seen: set[bytes] = set()

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add images of either set, (N, C, H, W); the two batches may differ in number."""
        new = targets[[i for i, each in enumerate(targets) if self._is_new(each)]]
        self._num_outputs += len(outputs)
        self._num_targets += len(new)
        if len(new):
            self._metric.update(new, real=True)
        self._metric.update(outputs, real=False)

    def _is_new(self, image: Tensor) -> bool:
        digest = hashlib.sha256(image.detach().float().cpu().numpy().tobytes()).digest()
        is_new = digest not in self._seen
        self._seen.add(digest)
        return is_new

    def compute(self) -> dict[str, float]:
        """Return ``kid``.

        Raises:
            ValueError: a set has fewer than two images.
        """
        counts = (self._num_outputs, self._num_targets)
        if min(counts) < 2:
            raise ValueError(f"{min(counts)} images in a set; their kernel distance needs 2")
        size = self._metric.subset_size = min(self._SUBSET_SIZE, *counts)
        self._metric.subsets = 1 if size == max(counts) else self._SUBSETS
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            mean, _ = self._metric.compute()
        return {"kid": float(mean)}


class _Features(nn.Module):
    """One row of features per image, in the precision that cubes of sums need."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network(images)
        return features.flatten(1).double()
