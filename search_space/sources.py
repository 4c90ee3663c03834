"""Networks from elsewhere: torchvision's, timm's, and the user's own function.

Every error is a :class:`ValueError` of one sentence that names the supernet.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from search_space.fakes import first_line
from search_space.image_layers import set_image_channels, suit_small_images
from search_space.mask_rcnn import TORCHVISION_DETECTORS, check_options, torchvision_mask_rcnn

SOURCES = ("torchvision", "timm", "import")
"""What may stand before the colon of a supernet's name."""

_RESERVED = (
    "weights",
    "weights_backbone",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
    "features_only",
    "progress",
    "num_classes",
    "in_channels",
    "in_chans",
)
"""Not for options: the sweep sets them, or they would load files or change what comes out."""

_WITHOUT_AUX_HEADS = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}
"""Defaults of torchvision's builders that make them return plain logits, without a warning."""


def check_source(name: str, options: Mapping[str, Any]) -> None:
    """Check a name ``SOURCE:REST`` and its options as far as goes without building anything.

    ``import:`` is only checked for its form; no code of the user's runs here.
    """
    source, _, rest = name.partition(":")
    for option in _RESERVED:
        if option in options:
            raise ValueError(f"option {option!r} of supernet {name} cannot be set; leave it out")
    if source == "torchvision":
        known = [*torchvision_names(), *TORCHVISION_DETECTORS]
        _check_known(rest, known, "torchvision classification network or Mask R-CNN")
        if rest in TORCHVISION_DETECTORS:
            check_options(name, options)
        elif options.get("stem", "cifar") != "cifar":
            raise ValueError(f"option stem of supernet {name} is {options['stem']!r}; known: cifar")
    elif source == "timm":
        timm = _timm()
        if not timm.is_model(rest):
            _check_known(rest, timm.list_models(), "timm network")
    elif len(rest.split(":")) != 2 or not all(rest.split(":")):
        raise ValueError(f"supernet {name!r} must have the form import:package.module:function")


def build_from_source(
    name: str, num_classes: int, in_channels: int, options: Mapping[str, Any]
) -> nn.Module:
    """Build the network that ``SOURCE:REST`` names, weights at random."""
    check_source(name, options)
    source, _, rest = name.partition(":")
    if source == "torchvision":
        return _build_torchvision(name, num_classes, in_channels, options)
    if source == "timm":
        create = _timm().create_model
        arguments = {"num_classes": num_classes, "in_chans": in_channels, **options}
        return _call(name, create, rest, pretrained=False, **arguments)
    return _build_imported(name, num_classes, in_channels, options)


def torchvision_names() -> list[str]:
    """Return torchvision's classification networks."""
    import torchvision

    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def torchvision_network(name: str, **arguments: Any) -> nn.Module:
    """Call torchvision's builder of that name, auxiliary heads off unless asked for."""
    import torchvision

    arguments = {**_WITHOUT_AUX_HEADS.get(name, {}), **arguments}
    network: nn.Module = torchvision.models.get_model(name, **arguments)
    return network


def _build_torchvision(
    name: str, num_classes: int, in_channels: int, options: Mapping[str, Any]
) -> nn.Module:
    rest = name.partition(":")[2]
    if rest in TORCHVISION_DETECTORS:
        if in_channels != 3:
            raise ValueError(f"supernet {name} takes images of 3 channels, not {in_channels}")
        return _call(name, torchvision_mask_rcnn, rest, num_classes, **options)
    arguments = {key: value for key, value in options.items() if key != "stem"}
    network = _call(
        name, torchvision_network, rest, weights=None, num_classes=num_classes, **arguments
    )
    if in_channels != 3:
        set_image_channels(network, name, in_channels)
    if "stem" in options:
        suit_small_images(network, name)
    return network


def _timm() -> ModuleType:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ValueError(
            "supernets named timm:... need the timm package; pip install 'pas-orchestrator[timm]'"
        ) from error


def _build_imported(
    name: str, num_classes: int, in_channels: int, options: Mapping[str, Any]
) -> nn.Module:
    function = find_attribute(name, "supernet")
    known: dict[str, Any] = {"num_classes": num_classes, "in_channels": in_channels}
    try:
        accepted = inspect.signature(function).parameters
        takes_any = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    except ValueError:  # some built-in callables have no signature
        accepted, takes_any = {}, True  # type: ignore[assignment]
    arguments = {key: value for key, value in known.items() if takes_any or key in accepted}
    return _call(name, function, **arguments, **options)


def find_attribute(name: str, what: str) -> Callable[..., Any]:
    """Import what ``import:package.module:attribute`` names; the working folder is searched too.

    Args:
        name: that name.
        what: what it is to be, for the sentence.

    Raises:
        ValueError: there is no such module or attribute, or it cannot be called.
    """
    _, module_name, attribute = name.split(":")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
        importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or _is_parent(error.name, name)):
            raise ValueError(
                f"{what} {name}: there is no module {error.name!r}; it must be installed or lie "
                f"in the working folder {here}"
            ) from error
        raise ValueError(f"{what} {name}: importing {module_name} failed: {error}") from error
    except (Exception, SystemExit) as error:  # the module's own code can raise anything
        raise ValueError(
            f"{what} {name}: importing {module_name} failed: {first_line(error)}"
        ) from error
    function = getattr(module, attribute, None)
    if function is None:
        close = difflib.get_close_matches(attribute, dir(module), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"{what} {name}: module {module_name} has no {attribute!r}{hint}")
    if not callable(function):
        kind = type(function).__name__
        raise ValueError(  # noqa: TRY004
            f"{what} {name}: {attribute} is of type {kind}, it cannot be called"
        )
    return function  # type: ignore[no-any-return]


def _is_parent(module: str, name: str) -> bool:
    return name.split(":")[1].startswith(f"{module}.")


def _call(name: str, function: Callable[..., Any], *values: Any, **arguments: Any) -> nn.Module:
    try:
        network = function(*values, **arguments)
    except ValueError as error:
        raise ValueError(f"supernet {name}: {first_line(error)}") from error
    except (Exception, SystemExit) as error:  # builders' code can raise anything
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ValueError(f"supernet {name} cannot be built with these options: {reason}") from error
    if not isinstance(network, nn.Module):
        kind = type(network).__name__
        raise ValueError(  # noqa: TRY004
            f"supernet {name} gave an object of type {kind}, not a torch.nn.Module"
        )
    return network


def _check_known(name: str, known: Sequence[str], what: str) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"
        raise ValueError(f"unknown {what} {name!r}; {hint}")
