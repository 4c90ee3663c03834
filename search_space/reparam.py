"""Reparameterizable blocks: several branches while training, one convolution when deployed.

Each branch is a bias-free convolution and its batch-norm; an identity branch is a batch-norm
alone, on the channels that input and output share. The activated sum of the branches is, in eval
mode, one convolution with bias and a ReLU: batch-norm is affine there and folds into the
convolution before it, a small kernel is a larger one with zeros around it, and an identity is a
kernel with a one at its centre (Ding et al., *RepVGG*, CVPR 2021, section 3.3).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from search_space.conv_norm import copy_norm, fuse_conv_norm, norm_as_affine, pad_kernel, strided


@dataclass(frozen=True, slots=True, eq=False)
class ReadParameter:
    """A parameter whose entries along one dimension belong to a block's input channels."""

    name: str
    """Relative to the block, for example ``conv3x3.weight``."""
    dim: int
    """The dimension that runs over the input channels."""
    index: Tensor | None = None
    """Input channel of each entry along ``dim`` (long); ``None``: one to one, in order."""


class ReparamBlock(nn.Module, ABC):
    """The activated sum of batch-normed convolutions and an optional batch-normed identity.

    Input (N, in_channels, H, W), output (N, out_channels, ceil(H / stride), ceil(W / stride)).
    A subclass calls :meth:`_add_branch` for each convolution (the first is the main branch) and
    then :meth:`_add_identity`.

    Args:
        in_channels: channels read.
        out_channels: channels written.
        kernel_size: odd height and width of the one convolution the block becomes.
        stride: of that convolution.
        depthwise: output channel c reads input channel c only.

    Raises:
        ValueError: an argument is out of range, or a depth-wise block would change its width.
    """

    norm_identity: nn.BatchNorm2d | None
    identity_in: Tensor
    identity_out: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, *, depthwise: bool
    ) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels)):
            if value < 1:
                raise ValueError(f"{name} is {value}; a block needs at least 1 channel")
        if stride < 1:
            raise ValueError(f"stride is {stride}; it must be at least 1")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(
                f"kernel_size is {kernel_size}; it must be odd, so that it has a centre"
            )
        if depthwise and in_channels != out_channels:
            raise ValueError(
                f"a depth-wise block keeps its channels, but in_channels is {in_channels} and "
                f"out_channels is {out_channels}; make them equal"
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.depthwise = kernel_size, stride, depthwise
        self.branch_names: list[str] = []
        self.identity: tuple[tuple[int, int], ...] = ()

    def _add_branch(self, name: str, kernel_size: int) -> None:
        """Add the modules ``conv<name>`` and ``norm<name>``."""
        # The stride of a 1x1 branch is taken before its convolution, see strided().
        stride = self.stride if kernel_size > 1 else 1
        groups = self.in_channels if self.depthwise else 1
        channels, padding = (self.in_channels, self.out_channels), kernel_size // 2
        conv = nn.Conv2d(*channels, kernel_size, stride, padding, groups=groups, bias=False)
        self.add_module(f"conv{name}", conv)
        self.add_module(f"norm{name}", nn.BatchNorm2d(self.out_channels))
        self.branch_names.append(name)

    def _add_identity(self, pairs: Sequence[tuple[int, int]] | None) -> None:
        """Join channels by pairs (in, out); ``None``: all of them where the shape is kept."""
        if pairs is None:
            keeps_shape = self.in_channels == self.out_channels and self.stride == 1
            pairs = [(c, c) for c in range(self.in_channels)] if keeps_shape else []
        for i, o in pairs:
            if not (0 <= i < self.in_channels and 0 <= o < self.out_channels):
                raise ValueError(
                    f"identity pair {(i, o)} is outside the block's {self.in_channels} input and "
                    f"{self.out_channels} output channels"
                )
            if self.depthwise and i != o:
                raise ValueError(
                    f"identity pair {(i, o)} crosses channels; a depth-wise block joins each "
                    "channel with itself"
                )
        if pairs and self.stride > 1:
            raise ValueError(f"an identity needs stride 1, not {self.stride}; pass identity=[]")
        self.identity = tuple((i, o) for i, o in pairs)
        self.norm_identity = nn.BatchNorm2d(len(pairs)) if pairs else None
        index = torch.tensor(self.identity, dtype=torch.long).reshape(-1, 2)
        self.register_buffer("identity_in", index[:, 0], persistent=False)
        self.register_buffer("identity_out", index[:, 1], persistent=False)
        diagonal = tuple((c, c) for c in range(max(self.in_channels, self.out_channels)))
        self._identity_is_full = self.identity == diagonal

    @abstractmethod
    def _resized(
        self, in_channels: int, out_channels: int, identity: Sequence[tuple[int, int]]
    ) -> Self:
        """Return a fresh block of the same branches for other numbers of channels."""

    def branch(self, name: str) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
        """Return the convolution and the batch-norm of a branch."""
        conv, norm = getattr(self, f"conv{name}"), getattr(self, f"norm{name}")
        assert isinstance(conv, nn.Conv2d)
        return conv, norm

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated sum of the branches."""
        x_strided = strided(x, self.stride)
        y: Tensor | None = None
        for name in self.branch_names:
            conv, norm = self.branch(name)
            branch = norm(conv(x_strided if conv.kernel_size == (1, 1) else x))
            y = branch if y is None else y + branch
        assert y is not None
        if self.norm_identity is not None:
            if self._identity_is_full:
                y = y + self.norm_identity(x)
            else:
                shared = self.norm_identity(x.index_select(1, self.identity_in))
                y = y.index_add(1, self.identity_out, shared.to(y.dtype))
        return torch.relu(y)

    def read_parameters(self) -> tuple[ReadParameter, ...]:
        """Return the parameters that read the input channels.

        Scaling their entries by the gates of the input channels is gating those channels, except
        for the bias of ``norm_identity``, a constant that a closed channel leaves behind. A
        depth-wise block reads nothing in this sense: it passes its channels on one to one.
        """
        if self.depthwise:
            return ()
        read = [ReadParameter(f"conv{name}.weight", 1) for name in self.branch_names]
        if self.norm_identity is not None:
            inputs = [i for i, _ in self.identity]
            index = None if self._identity_is_full else torch.tensor(inputs, device="cpu")
            read.append(ReadParameter("norm_identity.weight", 0, index))
        return tuple(read)

    def resized(self, read: Tensor, written: Tensor) -> Self:
        """Return a block of the same branches for these channels, freshly initialised.

        Args:
            read: input channels that stay: long, ascending.
            written: output channels that stay: long, ascending; for a depth-wise block, ``read``.

        Raises:
            ValueError: channels out of range or order, or a depth-wise block given two choices.
        """
        kept_in = _positions("read", read, self.in_channels)
        kept_out = _positions("written", written, self.out_channels)
        if self.depthwise and kept_in != kept_out:
            raise ValueError("a depth-wise block must read and write the same channels")
        both = [(i, o) for i, o in self.identity if i in kept_in and o in kept_out]
        pairs = [(kept_in[i], kept_out[o]) for i, o in both]
        return self._resized(len(kept_in), len(kept_out), pairs)

    @torch.no_grad()
    def sliced(self, read: Tensor, written: Tensor) -> Self:
        """Return a new block with only these channels; exact in eval and in training mode.

        What closed input channels leave behind (see :meth:`read_parameters`) moves into the bias
        of the main branch's batch-norm, which is added at the same place. Arguments and errors as
        :meth:`resized`.
        """
        weight = self.branch(self.branch_names[0])[0].weight
        block = self.resized(read, written).to(weight.device, weight.dtype).train(self.training)
        for name in self.branch_names:
            (conv, norm), (new_conv, new_norm) = self.branch(name), block.branch(name)
            rows = conv.weight[written]
            new_conv.weight.copy_(rows if self.depthwise else rows[:, read])
            copy_norm(norm, new_norm, written)
        if self.norm_identity is not None:
            kept_in, kept_out = set(read.tolist()), {int(o): k for k, o in enumerate(written)}
            lasting = [p for p, (_, o) in enumerate(self.identity) if o in kept_out]
            shared = [p for p in lasting if self.identity[p][0] in kept_in]
            if block.norm_identity is not None:
                copy_norm(self.norm_identity, block.norm_identity, torch.tensor(shared))
            main_bias = block.branch(self.branch_names[0])[1].bias
            for p in sorted(set(lasting) - set(shared)):
                main_bias[kept_out[self.identity[p][1]]] += self.norm_identity.bias[p]
        for name, parameter in block.named_parameters():
            parameter.requires_grad_(self.get_parameter(name).requires_grad)
        return block

    @torch.no_grad()
    def fused(self) -> PlainBlock:
        """Return the deploy form, in eval mode: equal outputs; sums are taken in float64."""
        kernels, biases = [], []
        for name in self.branch_names:
            conv, norm = self.branch(name)
            kernel, bias = fuse_conv_norm(conv.weight, norm)
            kernels.append(pad_kernel(kernel, self.kernel_size))
            biases.append(bias)
        kernel, bias = torch.stack(kernels).sum(0), torch.stack(biases).sum(0)
        if self.norm_identity is not None:
            scale, shift = norm_as_affine(self.norm_identity)
            column = torch.zeros_like(self.identity_in) if self.depthwise else self.identity_in
            centre = kernel[:, :, self.kernel_size // 2, self.kernel_size // 2]
            centre.index_put_((self.identity_out, column), scale, accumulate=True)
            bias.index_add_(0, self.identity_out, shift)
        weight = self.branch(self.branch_names[0])[0].weight
        groups = self.in_channels if self.depthwise else 1
        plain = PlainBlock(
            self.in_channels, self.out_channels, self.stride, self.kernel_size, groups
        ).to(weight.device, weight.dtype)
        plain.conv.weight.copy_(kernel)
        assert plain.conv.bias is not None
        plain.conv.bias.copy_(bias)
        return plain.eval()


class PlainBlock(nn.Module):
    """The deploy form of a block: one convolution with bias, then ReLU. Shapes as there."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        kernel_size: int = 3,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride
        self.kernel_size, self.groups = kernel_size, groups
        conv_stride = stride if kernel_size > 1 else 1  # see strided()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, conv_stride, kernel_size // 2, groups=groups
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return ``relu(conv(x))``."""
        return torch.relu(self.conv(strided(x, self.stride) if self.kernel_size == 1 else x))


def _positions(name: str, channels: Tensor, size: int) -> dict[int, int]:
    """Map each kept channel to its place among the kept ones."""
    kept: list[int] = channels.tolist()
    if not kept or kept != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= size:
        raise ValueError(f"{name} is {kept}; it must ascend within 0..{size - 1}, at least one")
    return {channel: k for k, channel in enumerate(kept)}
