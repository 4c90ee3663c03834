"""Adversarial training of image-to-image generators, with paired and with unpaired images."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pas_trainer.optim import OptimizerConfig
from pas_trainer.tasks.companion import Companion
from pas_trainer.tasks.patch_critic import PatchCritic, cross_entropy, least_squares


@dataclass(frozen=True, kw_only=True, slots=True)
class LossWeights:
    """What the terms of a generator's loss are multiplied by.

    Attributes:
        adversarial: the critics' verdicts.
        l1: distance from the target, of paired images (pix2pix: 100).
        cycle: distance of an image that went there and back from itself, of unpaired ones
            (CycleGAN: 10).
        identity: distance of an image of the target domain from what becomes of it, as a share of
            ``cycle`` (CycleGAN: 0.5, or 0).
        distillation: distance from what the supernet makes of the image, while searching and
            fine-tuning.
    """

    adversarial: float = 1.0
    l1: float = 100.0
    cycle: float = 10.0
    identity: float = 0.5
    distillation: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in self.__slots__:
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 <= value < float("inf")):
                raise ValueError(f"option {name} is {value!r}; it must be a number of at least 0")


class _Distilled(Companion):
    """Knows what the supernet makes of an image."""

    _weights: LossWeights
    _teacher: nn.Module | None = None

    def take_teacher(self, supernet: nn.Module, device: torch.device) -> None:
        """Keep a copy of the supernet, if it is to teach."""
        if self._weights.distillation:
            teacher = copy.deepcopy(supernet).to(device).eval().requires_grad_(False)
            self._teacher = teacher

    def _distance_from_teacher(self, images: Tensor, made: Tensor) -> Tensor:
        if self._teacher is None:
            return made.new_zeros(())
        return self._weights.distillation * F.l1_loss(made, self._teacher(images))


class PairedAdversary(_Distilled):
    """pix2pix: one critic, which sees input and output together (Isola et al., CVPR 2017, eq. 4).

    Args:
        recipe: as the generator's.
        weights: of the loss's terms.
        channels: of an image.
        width: of the critic.
        device: where it is.
    """

    def __init__(
        self,
        recipe: OptimizerConfig,
        weights: LossWeights,
        channels: int,
        width: int,
        device: torch.device,
    ) -> None:
        critic = PatchCritic(2 * channels, width, nn.BatchNorm2d).to(device)
        super().__init__(recipe, nn.ModuleDict({"critic": critic}), nn.ModuleDict())
        self._weights = weights

    def loss(self, network: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return what the generator is to lower: verdict, L1, distance from the teacher."""
        made = network(inputs)
        self._seen = inputs, targets, made.detach()
        verdicts = self.critics["critic"](torch.cat([inputs, made], 1))
        loss = self._weights.adversarial * cross_entropy(verdicts, real=True)
        loss = loss + self._weights.l1 * F.l1_loss(made, targets)
        return loss + self._distance_from_teacher(inputs, made)

    def own_loss(self) -> Tensor:
        """Return the critic's: the pair of the data is real, that of the generator is not."""
        (inputs, targets, made), critic = self._seen, self.critics["critic"]
        real = cross_entropy(critic(torch.cat([inputs, targets], 1)), real=True)
        fake = cross_entropy(critic(torch.cat([inputs, made], 1)), real=False)
        return (real + fake) / 2


class UnpairedAdversary(_Distilled):
    """CycleGAN: a generator the other way, and a critic of each domain (Zhu et al., ICCV 2017).

    The critics see what the generators have just made; the paper's pool of earlier images is left
    out.

    Args:
        recipe, weights, channels, width, device: as of :class:`PairedAdversary`.
        backward: generator from the target domain, with all its channels.
    """

    def __init__(
        self,
        recipe: OptimizerConfig,
        weights: LossWeights,
        channels: int,
        width: int,
        device: torch.device,
        backward: nn.Module,
    ) -> None:
        critics = {name: PatchCritic(channels, width, nn.InstanceNorm2d) for name in ("a", "b")}
        super().__init__(
            recipe,
            nn.ModuleDict(critics).to(device),
            nn.ModuleDict({"backward": backward}).to(device),
        )
        self._weights = weights

    def loss(self, network: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return what both generators are to lower: verdicts, cycles, identities (section 3)."""
        weights, backward = self._weights, self.partners["backward"]
        made_b, made_a = network(inputs), backward(targets)
        self._seen = inputs, targets, made_a.detach(), made_b.detach()
        verdicts = self.critics["a"](made_a), self.critics["b"](made_b)
        loss = weights.adversarial * sum(least_squares(v, real=True) for v in verdicts)
        cycle = F.l1_loss(backward(made_b), inputs) + F.l1_loss(network(made_a), targets)
        loss = loss + weights.cycle * cycle
        if weights.identity:
            same = F.l1_loss(network(targets), targets) + F.l1_loss(backward(inputs), inputs)
            loss = loss + weights.cycle * weights.identity * same
        return loss + self._distance_from_teacher(inputs, made_b)

    def own_loss(self) -> Tensor:
        """Return the critics': images of the data are real, those of the generators are not."""
        inputs, targets, made_a, made_b = self._seen
        terms = [
            least_squares(self.critics[name](images), real=real)
            for name, images, real in (
                ("a", inputs, True),
                ("a", made_a, False),
                ("b", targets, True),
                ("b", made_b, False),
            )
        ]
        return torch.stack(terms).sum() / 2
