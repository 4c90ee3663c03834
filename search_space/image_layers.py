"""The layers of a convolutional network that read the image: other channels, smaller images.

Networks for 224x224 images halve the resolution two or more times before the first stage; at
32x32 nothing would be left to look at. He et al. (CVPR 2016, section 4.2) give ResNets a 3x3
convolution of stride 1 and no pooling there; the same suits other convolutional networks.
"""

from __future__ import annotations

import torch
from torch import fx, nn
from torch.nn import functional as F

from search_space.fakes import first_line

_WITHOUT_STEM_RULE = ("vision_transformer", "swin_transformer", "maxvit")
"""torchvision's networks that cut the image into patches or windows of a fixed size."""

_BETWEEN = (
    nn.BatchNorm2d,
    nn.LayerNorm,
    nn.ReLU,
    nn.ReLU6,
    nn.SiLU,
    nn.Hardswish,
    nn.GELU,
    nn.Identity,
)
_BETWEEN_FUNCTIONS = {F.relu, torch.relu}


def set_image_channels(network: nn.Module, name: str, in_channels: int) -> None:
    """Replace the convolution that reads the image by one for ``in_channels``, in place.

    Raises:
        ValueError: not exactly one ungrouped convolution reads the image.
    """
    node = _image_conv(network, f"{name} cannot take images of {in_channels} channels")
    conv = network.get_submodule(str(node.target))
    assert isinstance(conv, nn.Conv2d)
    network.set_submodule(
        str(node.target),
        nn.Conv2d(
            in_channels,
            conv.out_channels,
            _pair(conv.kernel_size),
            _pair(conv.stride),
            conv.padding if isinstance(conv.padding, str) else _pair(conv.padding),
            bias=conv.bias is not None,
        ),
    )


def suit_small_images(network: nn.Module, name: str) -> None:
    """Make the stem suit images of about 32x32 pixels, in place.

    A strided first convolution becomes 3x3 with stride 1, and a max-pool right after it goes.
    Where the first convolution has stride 1 (VGG), the first max-pool goes.

    Raises:
        ValueError: the network has no such stem.
    """
    refusal = f"option stem of {name}: no way is known to make it suit small images"
    if type(network).__module__.rpartition(".")[2] in _WITHOUT_STEM_RULE:
        raise ValueError(f"{refusal}, since its patches or windows have a fixed size; leave it out")
    node = _image_conv(network, refusal)
    conv = network.get_submodule(str(node.target))
    assert isinstance(conv, nn.Conv2d)
    modules = dict(network.named_modules())
    if max(_pair(conv.stride)) == 1:
        pool = next((n for n in node.graph.nodes if _is_max_pool(n, modules)), None)
        if pool is None:
            raise ValueError(f"{refusal}: its first convolution has stride 1 and no pooling after")
    else:
        small = nn.Conv2d(conv.in_channels, conv.out_channels, 3, 1, 1, bias=conv.bias is not None)
        network.set_submodule(str(node.target), small)
        pool = _pool_right_after(node, modules)
    if pool is not None:
        network.set_submodule(str(pool.target), nn.Identity())


def _image_conv(network: nn.Module, refusal: str) -> fx.Node:
    """Return the node of the one convolution that reads the image."""
    try:
        graph = fx.symbolic_trace(network).graph
    except Exception as error:  # fx raises whatever the network's own code meets
        reason = first_line(error)
        raise ValueError(f"{refusal}: torch.fx cannot trace it ({reason})") from error
    image = next(n for n in graph.nodes if n.op == "placeholder")
    readers = [n for n in image.users if not _reads_only_the_shape(n)]
    conv: fx.Node | None = (
        readers[0] if len(readers) == 1 and readers[0].op == "call_module" else None
    )
    leaf = network.get_submodule(str(conv.target)) if conv is not None else None
    if conv is None or not isinstance(leaf, nn.Conv2d) or leaf.groups != 1:
        found = ", ".join(str(n.target) for n in readers) or "nothing"
        raise ValueError(f"{refusal}: not one convolution reads the image, but {found}")
    return conv


def _reads_only_the_shape(node: fx.Node) -> bool:
    return node.target in {getattr, "size", "dim"}


def _pool_right_after(conv: fx.Node, modules: dict[str, nn.Module]) -> fx.Node | None:
    """Return the max-pool that follows with only norms and activations between, if any."""
    node = conv
    while len(node.users) == 1:
        node = next(iter(node.users))
        if _is_max_pool(node, modules):
            return node
        between = node.op == "call_module" and isinstance(modules[str(node.target)], _BETWEEN)
        if not (between or node.target in _BETWEEN_FUNCTIONS):
            return None
    return None


def _is_max_pool(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    return node.op == "call_module" and isinstance(modules[str(node.target)], nn.MaxPool2d)


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
