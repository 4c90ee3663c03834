"""Supernets by name: the project's families, torchvision's, timm's, or the user's own.

``build_supernet`` gives a wide network to search in, ``build_supernet_on_meta`` its shapes alone.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import torch
from torch import nn

from search_space.fakes import leaves
from search_space.families import FAMILIES, build_family, check_family_options
from search_space.mask_rcnn import TORCHVISION_DETECTORS
from search_space.sources import SOURCES, build_from_source, check_source, torchvision_names

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth")
"""What the name of a weights file may end with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SupernetConfig:
    """Which supernet to search in, and where (``supernet:`` in a sweep file)."""

    name: str
    """One of :func:`supernet_names`, ``torchvision:NAME``, ``timm:NAME`` or
    ``import:package.module:function``."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """See :func:`build_supernet`."""
    weights: str | None = None
    """What the supernet starts from: a ``.safetensors``, ``.pt`` or ``.pth`` file of tensors; a
    name of torchvision's (``DEFAULT``, ``IMAGENET1K_V1``); ``pretrained`` for timm; ``None``:
    random weights."""
    scope: tuple[str, ...] = ()
    """Submodules to search in; none: everywhere."""
    pinned: tuple[str, ...] = ()
    """Channel groups or modules that keep all their channels."""

    def __post_init__(self) -> None:
        """Check the name, the options and the form of the weights."""
        check_supernet(self.name, self.options)
        if self.weights is not None and not is_weights_file(self.weights):
            _check_weights_name(self.name, self.weights)


def supernet_names() -> tuple[str, ...]:
    """Return the names of the project's own families."""
    return tuple(FAMILIES)


def check_supernet(name: str, options: Mapping[str, Any]) -> None:
    """Check a name and its options as far as goes without building anything.

    Raises:
        ValueError: unknown name or option, an option out of range, or timm is not installed.
    """
    if name in FAMILIES:
        check_family_options(name, options)
    elif name.partition(":")[0] in SOURCES and ":" in name:
        check_source(name, options)
    else:
        raise ValueError(f"unknown supernet {name!r}; {_hint(name)}")


def build_supernet(name: str, num_classes: int, in_channels: int = 3, **options: Any) -> nn.Module:
    """Build a supernet in training form, randomly initialised from torch's global generator.

    Args:
        name: one of :func:`supernet_names`; ``torchvision:NAME`` (classification networks, built
            without auxiliary heads, and Mask R-CNN); ``timm:NAME``;
            ``import:package.module:function``, whose function is called with the options and, where
            it accepts them, ``num_classes`` and ``in_channels``, and returns a network. The working
            folder is importable.
        num_classes: number of logits; for image translation the channels of the image that comes
            out; for Mask R-CNN the kinds of objects with the background.
        in_channels: channels of the image.
        options: families: ``width``, a multiplier on every layer's channels, in (0, 16] (of the
            backbone's in a Mask R-CNN, whose other options are the fields of
            :class:`search_space.MaskRCNNVariant`). torchvision: the builder's arguments, and
            ``stem="cifar"``, which makes the first layers suit 32x32 images; for a Mask R-CNN
            see :func:`search_space.mask_rcnn.torchvision_mask_rcnn`. timm: the model's
            arguments. import: the function's.

    Raises:
        ValueError: unknown name or option, an option out of range, or nothing can be built.
    """
    check_supernet(name, options)
    if name in FAMILIES:
        return build_family(name, num_classes, in_channels, options)
    return build_from_source(name, num_classes, in_channels, options)


def build_supernet_on_meta(
    name: str, num_classes: int, in_channels: int = 3, **options: Any
) -> nn.Module:
    """Build a supernet's shapes on the meta device; the random state is left as it was.

    Arguments and errors as :func:`build_supernet`. Networks whose constructors compute with
    tensors are built on the CPU first.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                network = build_supernet(name, num_classes, in_channels, **options)
            needs_values = _holds_meta_constants(network)
        except Exception:  # what a constructor does with values that meta tensors lack
            needs_values = True
        if needs_values:
            network = build_supernet(name, num_classes, in_channels, **options)
    return network.to("meta")


def _holds_meta_constants(network: nn.Module) -> bool:
    """Whether mere attributes are tensors without values, such as a detector's anchors."""
    for module in network.modules():
        own = {key: v for key, v in vars(module).items() if key not in {"_parameters", "_buffers"}}
        if any(tensor.is_meta for tensor in leaves(own)):
            return True
    return False


def is_weights_file(weights: str) -> bool:
    """Whether ``supernet.weights`` names a file rather than published weights."""
    return PurePath(weights).suffix in WEIGHT_SUFFIXES


def _check_weights_name(name: str, weights: str) -> None:
    source, _, rest = name.partition(":")
    known: Sequence[str] = ()
    if source == "torchvision" and rest not in TORCHVISION_DETECTORS:
        import torchvision

        known = tuple(torchvision.models.get_model_weights(rest).__members__)
    elif source == "timm":
        known = ("pretrained",)
    if weights not in known:
        names = f"{', '.join(known)}, or " if known else ""
        raise ValueError(
            f"weights {weights!r} of supernet {name} are not known; give {names}a file that ends "
            f"with {', '.join(WEIGHT_SUFFIXES)}"
        )


def _hint(name: str) -> str:
    elsewhere = [*torchvision_names(), *TORCHVISION_DETECTORS]
    if name in elsewhere:
        return f"did you mean torchvision:{name}?"
    candidates = [*FAMILIES, *(f"torchvision:{n}" for n in elsewhere)]
    close = difflib.get_close_matches(name, candidates, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return (
        f"known: {', '.join(FAMILIES)}, torchvision:NAME, timm:NAME, import:package.module:function"
    )
