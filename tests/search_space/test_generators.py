"""The generators of pix2pix and CycleGAN: what they are, what they cost, and searching in them."""

import pytest
import torch
from exactness import check_exact, slice_at_random
from torch import Tensor, nn

from search_space import UNET_VARIANTS, build_supernet, build_supernet_on_meta, trace_channels


def images(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1


def without_dropout(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


def unet_macs(base: int, levels: int, read: int, written: int) -> int:
    """The encoder of the table in the paper, and its mirror: every layer has 4 x 4 taps."""
    widths = [read] + [base * min(8, 2**level) for level in range(levels)]
    total = 0
    for k in range(1, levels + 1):
        pixels = 4 ** (levels - k)  # of the smaller map on either side
        total += 16 * pixels * widths[k - 1] * widths[k]
        skip = 1 if k == levels else 2
        total += 16 * pixels * skip * widths[k] * (widths[k - 1] if k > 1 else written)
    return total


def resnet_macs(base: int, blocks: int, size: int, read: int, written: int) -> int:
    """c7s1-64, d128, d256, R256 ..., u128, u64, c7s1-3 of the paper."""
    pixels = size**2
    ends = 49 * pixels * base * (read + written)
    down = 9 * base * 2 * base * pixels // 4 + 9 * 2 * base * 4 * base * pixels // 16
    # A transposed convolution multiplies every pixel that it reads with all of its taps.
    up = 9 * 4 * base * 2 * base * pixels // 16 + 9 * 2 * base * base * pixels // 4
    return ends + down + up + blocks * 2 * 9 * (4 * base) ** 2 * pixels // 16


@pytest.mark.parametrize("levels", [6, 7, 8])
def test_a_unet_costs_what_the_papers_table_says(levels: int) -> None:
    size = 2**levels
    network = build_supernet_on_meta(f"pix2pix_unet_{size}", 2, 1, width=0.25)
    graph = trace_channels(network, torch.empty(1, 1, size, size))
    assert graph.count_macs() == unet_macs(16, levels, 1, 2)
    assert graph.searchable_share() == 1
    # Everything but the image: one group per level on either side.
    assert len(graph.groups) == 2 * levels - 1
    dropouts = [n for n, m in network.named_modules() if isinstance(m, nn.Dropout)]
    assert dropouts == [f"decoder.up{k}.dropout" for k in range(levels, 5, -1)]


@pytest.mark.parametrize("blocks", [6, 9])
def test_a_resnet_generator_costs_what_the_papers_list_says(blocks: int) -> None:
    network = build_supernet_on_meta(f"cyclegan_resnet_{blocks}", 3, 1, width=0.5)
    graph = trace_channels(network, torch.empty(1, 1, 16, 16))
    assert graph.count_macs() == resnet_macs(32, blocks, 16, 1, 3)
    assert graph.searchable_share() == 1
    # The stem, two on the way down (the second runs through all blocks), inside each block, two up.
    assert len(graph.groups) == 5 + blocks


def test_sizes_are_those_of_the_authors_code() -> None:
    """Counted in theirs: 54.414 and 11.378 million, biases in front of norms included."""
    unet = build_supernet_on_meta("pix2pix_unet_256", 3)
    assert sum(p.numel() for p in unet.parameters()) == pytest.approx(54.414e6, abs=2e3)
    resnet = build_supernet_on_meta("cyclegan_resnet_9", 3)
    idle = 64 + 128 + 256 + 9 * 2 * 256 + 128 + 64
    assert sum(p.numel() for p in resnet.parameters()) + idle == pytest.approx(11.378e6, abs=1e3)


@pytest.mark.parametrize(("name", "size"), [("pix2pix_unet_64", 64), ("cyclegan_resnet_6", 16)])
def test_gated_and_sliced_generators_agree(name: str, size: int) -> None:
    torch.manual_seed(0)
    network, x = without_dropout(build_supernet(name, 2, 3, width=0.125)), images(2, 3, size, size)
    sliced = slice_at_random(network, x, 1)
    assert sliced.graph.unsupported_ops() == ()
    check_exact(sliced, x)
    output = sliced.compact(x)
    assert output.shape == (2, 2, size, size)
    assert output.abs().max() <= 1


def test_a_skip_connection_brings_the_encoders_channels_to_the_decoder() -> None:
    network = build_supernet_on_meta("pix2pix_unet_64", 3, width=0.125)
    graph = trace_channels(network, torch.empty(1, 3, 64, 64))
    consumers = {group.name: set(group.consumers) for group in graph.groups}
    for k in range(1, 6):
        assert consumers[f"encoder.down{k}.conv"] == {
            f"encoder.down{k + 1}.conv",
            f"decoder.up{k}.conv",
        }


@pytest.mark.parametrize(
    ("name", "shape", "step"),
    [("pix2pix_unet_64", (64, 96), 64), ("cyclegan_resnet_6", (18, 16), 4)],
)
def test_images_that_cannot_be_halved_are_refused(
    name: str, shape: tuple[int, int], step: int
) -> None:
    network = build_supernet_on_meta(name, 3, width=0.125)
    sides = f"{shape[0]}x{shape[1]} pixels .* multiples of {step}"
    with pytest.raises(ValueError, match=sides):
        network(torch.empty(1, 3, *shape, device="meta"))
    with pytest.raises(ValueError, match=sides):
        trace_channels(network, torch.empty(1, 3, *shape))


@pytest.mark.parametrize("name", [*UNET_VARIANTS, "cyclegan_resnet_9"])
def test_larger_images_keep_their_size(name: str) -> None:
    network = build_supernet_on_meta(name, 1, 3, width=0.125)
    size = 2 * getattr(network, "image_size", 8)
    output = network(torch.empty(1, 3, size, 2 * size, device="meta"))
    assert output.shape == (1, 1, size, 2 * size)
