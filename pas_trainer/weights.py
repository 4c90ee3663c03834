"""Weights that a supernet starts from: a file of tensors, or those torchvision or timm publish.

Files are safetensors, or torch files read with ``weights_only=True``: no pickled code ever runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pas_trainer.errors import WeightsError
from search_space import SupernetConfig, build_supernet_on_meta, is_weights_file
from search_space.fakes import first_line
from search_space.mask_rcnn import current_names
from search_space.sources import torchvision_network

_WRAPPED_IN = ("state_dict", "model")
"""Keys under which training scripts keep the tensors in a torch file."""

_COUNTER = "num_batches_tracked"
"""A batch-norm's step counter: files of torch before 1.0 lack it, and it decides nothing."""


def load_weights(config: SupernetConfig, network: nn.Module, num_classes: int) -> tuple[str, ...]:
    """Load ``config.weights`` into a network built from ``config``.

    Every tensor that fits is loaded. The classifier may have another number of classes: its
    tensors then keep their random values.

    Returns:
        Names of the tensors left at random.

    Raises:
        WeightsError: the weights cannot be read or fetched, or a tensor elsewhere does not fit.
    """
    assert config.weights is not None
    state = read_weights(config)
    left = fit_weights(config, state, network, num_classes)
    fitting = network.state_dict().keys() - set(left)
    kept = {name: tensor for name, tensor in state.items() if name in fitting}
    network.load_state_dict(kept, strict=False)
    return left


def read_weights(config: SupernetConfig, *, shapes_only: bool = False) -> dict[str, Tensor]:
    """Return the tensors of ``config.weights`` by name.

    Args:
        config: with weights.
        shapes_only: published weights are not fetched; their tensors are on the meta device.

    Raises:
        WeightsError: the weights cannot be read or fetched.
    """
    assert config.weights is not None
    if is_weights_file(config.weights):
        state = _read_file(Path(config.weights))
        return current_names(state) if "maskrcnn" in config.name else state
    return _published(config, shapes_only=shapes_only)


def fit_weights(
    config: SupernetConfig, state: Mapping[str, Tensor], network: nn.Module, num_classes: int
) -> tuple[str, ...]:
    """Check tensors against a network, see :func:`load_weights`; shapes and kinds count, no values.

    Raises:
        WeightsError: naming the first tensor that is missing, unknown, of another shape, or of
            numbers of another kind (whole, real, complex).
    """
    where = f"weights {config.weights} do not fit supernet {config.name}"
    if config.name in _EXPECT_OWN_SCALE and not is_weights_file(config.weights or ""):
        _check_own_scale(config)
    expected = network.state_dict()
    unknown = [n for n in state if n not in expected and not _belongs_to_absent(n, network)]
    missing = [n for n in expected if n not in state and not n.endswith(_COUNTER)]
    if unknown or missing:
        kind, name = ("unknown", unknown[0]) if unknown else ("missing", missing[0])
        raise WeightsError(f"{where}: tensor {name} is {kind}; use weights of the same network")
    classifier = set(_tensors_per_class(network, num_classes))
    left = []
    for name, tensor in expected.items():
        if name in state and not name.endswith(_COUNTER) and _loses(state[name], tensor):
            raise WeightsError(
                f"{where}: tensor {name} is {state[name].dtype}, which {tensor.dtype} cannot stand "
                "for; use weights of the same network, saved as they were trained"
            )
        if name not in state or state[name].shape == tensor.shape:
            continue
        if not (name in classifier and state[name].shape[1:] == tensor.shape[1:]):
            raise WeightsError(
                f"{where}: tensor {name} has shape {tuple(state[name].shape)}, expected "
                f"{tuple(tensor.shape)}; use weights of the same network with the same options"
            )
        left.append(name)
    return tuple(left)


def _loses(given: Tensor, expected: Tensor) -> bool:
    """Whether numbers of one kind would be cut down to another, or mean something else in it."""
    if given.is_complex() or expected.is_complex():
        return given.is_complex() and not expected.is_complex()
    return given.is_floating_point() != expected.is_floating_point()


def weights_identity(config: SupernetConfig) -> str | None:
    """Return what tells these weights from others: a file's content hash, or the published name.

    Raises:
        WeightsError: the file cannot be read.
    """
    if config.weights is None or not is_weights_file(config.weights):
        return config.weights
    try:
        with Path(config.weights).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"weights {config.weights} cannot be read: {error.strerror}") from error


_EXPECT_OWN_SCALE = ("torchvision:googlenet", "torchvision:inception_v3")


def _check_own_scale(config: SupernetConfig) -> None:
    """These two were trained on images scaled another way, which their own option undoes."""
    if not config.options.get("transform_input"):
        raise WeightsError(
            f"weights {config.weights} of supernet {config.name} need its images scaled another "
            "way; set options.transform_input to true"
        )


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        reason = error.strerror or "no such file or not readable"
        raise WeightsError(f"weights {path} cannot be read: {reason}") from error
    except Exception as error:  # what unpickling a damaged file raises is of any kind
        raise WeightsError(
            f"weights {path} are not a file of tensors alone ({type(error).__name__}); save the "
            "network's state_dict as safetensors"
        ) from error
    for key in _WRAPPED_IN:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not (isinstance(content, Mapping) and all(isinstance(t, Tensor) for t in content.values())):
        raise WeightsError(f"weights {path} hold no state_dict; save the network's state_dict")
    state = {str(name).removeprefix("module."): tensor for name, tensor in content.items()}
    for name, tensor in state.items():
        if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized:
            what = "no values" if tensor.is_meta else f"{tensor.layout} with {tensor.dtype} values"
            raise WeightsError(
                f"weights {path}: tensor {name} is not stored as plain numbers ({what}); save it "
                "as a dense tensor"
            )
    return state


def _published(config: SupernetConfig, *, shapes_only: bool) -> dict[str, Tensor]:
    num_classes = _published_classes(config)
    if shapes_only:
        network = build_supernet_on_meta(config.name, num_classes)
        return network.state_dict()
    with torch.random.fork_rng(devices=[]):
        try:
            return _fetch(config).state_dict()
        except Exception as error:  # each hub client raises errors of its own
            reason = first_line(error)
            raise WeightsError(
                f"weights {config.weights} of supernet {config.name} cannot be fetched: {reason}; "
                "check the network connection or give a weights file"
            ) from error


def _published_classes(config: SupernetConfig) -> int:
    source, _, name = config.name.partition(":")
    if source == "torchvision":
        return 1000
    import timm

    published = timm.get_pretrained_cfg(name)
    if published is None or not published.has_weights:
        raise WeightsError(f"timm publishes no weights of {name}; set weights to null or to a file")
    return int(published.num_classes)


def _fetch(config: SupernetConfig) -> nn.Module:
    """Build the network with its published weights, as torchvision or timm do it."""
    source, _, name = config.name.partition(":")
    if source == "torchvision":
        return torchvision_network(name, weights=config.weights)
    import timm

    network: nn.Module = timm.create_model(name, pretrained=True)
    return network


def _belongs_to_absent(name: str, network: nn.Module) -> bool:
    """Whether a tensor is of a part the network is built without, such as an auxiliary head."""
    first = name.partition(".")[0]
    return hasattr(network, first) and getattr(network, first) is None


def _tensors_per_class(network: nn.Module, num_classes: int) -> Iterable[str]:
    """Yield the tensors of linear layers and convolutions that have one row per class.

    Those that place a detector's boxes have four.
    """
    for name, module in network.named_modules():
        rows = num_classes * (4 if name.endswith("bbox_pred") else 1)
        if isinstance(module, nn.Linear | nn.Conv2d) and module.weight.shape[0] == rows:
            yield from (f"{name}.{own}" for own, _ in module.named_parameters(recurse=False))
