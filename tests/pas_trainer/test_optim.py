from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pas_trainer import OptimizerConfig, attach_gates
from pas_trainer.optim import build_optimizer, cosine_factor, set_learning_rate
from search_space import build_supernet, build_supernet_on_meta, trace_channels


def test_scores_biases_and_norms_are_not_decayed():
    model = build_supernet("repvgg_tiny", 10, 1)
    gated = attach_gates(model, trace_channels(model, torch.empty(1, 1, 8, 8)))
    config = OptimizerConfig(learning_rate=0.1, gate_learning_rate=0.7, weight_decay=0.01)
    optimizer = build_optimizer(gated, config, 0.1)
    group_of = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    named = dict(gated.named_parameters())
    assert set(group_of) == {id(p) for p in named.values()}
    for name, parameter in named.items():
        group = group_of[id(parameter)]
        is_weight = name.endswith("weight") and "norm" not in name
        assert group["weight_decay"] == (0.01 if is_weight else 0.0), name
        assert group["peak_lr"] == (0.7 if name.endswith("scores") else 0.1), name


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "convnext_tiny", "squeezenet1_0"])
def test_of_any_network_only_convolutions_and_linear_layers_are_decayed(name):
    model = build_supernet_on_meta(f"torchvision:{name}", 10, 3)
    optimizer = build_optimizer(model, OptimizerConfig(weight_decay=0.01), 0.1)
    decayed = {id(p) for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert decayed == {id(m.weight) for m in layers}
    in_all = [id(p) for g in optimizer.param_groups for p in g["params"]]
    assert sorted(in_all) == sorted(id(p) for p in model.parameters())


def test_a_users_own_kernels_are_decayed_and_scales_are_not():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.kernel = nn.Parameter(torch.ones(4, 3, 3, 3))
            self.scale = nn.Parameter(torch.ones(4, 1, 1))

    model = Own()
    decayed, others = build_optimizer(model, OptimizerConfig(), 0.1).param_groups
    assert (decayed["params"], others["params"]) == ([model.kernel], [model.scale])


def test_the_learning_rate_warms_up_and_falls_to_zero():
    factors = [cosine_factor(step, 100, 10) for step in range(101)]
    assert factors[0] == pytest.approx(1 / 11)
    assert max(factors) == factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0.0)
    assert cosine_factor(0, 10, 0) == 1.0


def test_learning_rates_scale_together():
    model = build_supernet("repvgg_tiny", 10, 1)
    optimizer = build_optimizer(model, OptimizerConfig(), 0.2)
    set_learning_rate(optimizer, 0.5)
    assert {g["lr"] for g in optimizer.param_groups} == {0.1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": 0},
        {"gate_learning_rate": float("nan")},
        {"momentum": 1.0},
        {"weight_decay": -1},
        {"label_smoothing": 1.0},
        {"batch_size": 1},
        {"warmup_epochs": -1},
    ],
)
def test_values_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        OptimizerConfig(**wrong)


def test_scales_of_several_sizes_are_not_decayed_where_a_norm_has_them():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.LayerNorm((4, 8, 8)))
    decayed, others = build_optimizer(model, OptimizerConfig(), 0.1).param_groups
    assert decayed["params"] == [model[0].weight]
    assert others["params"] == [model[0].bias, model[1].weight, model[1].bias]


class _SkipsBlocks(nn.Module):
    """Each step goes through one of its blocks."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(3, 3) for _ in range(3)])

    def forward(self, x, block):
        return self.blocks[0](self.blocks[block](x))


def _steps(model, optimizer, blocks):
    for block in blocks:
        optimizer.zero_grad(set_to_none=True)
        inputs = torch.linspace(-1, 1, 12).view(4, 3) + block
        model(inputs, block).square().sum().backward()
        optimizer.step()


def test_parameters_may_get_their_first_gradient_late():
    torch.manual_seed(0)
    model = _SkipsBlocks()
    reference = copy.deepcopy(model)
    config = OptimizerConfig(weight_decay=0.01)
    blocks = [0, 1, 2, 0, 1, 2]
    _steps(model, build_optimizer(model, config, 0.01), blocks)
    named = dict(reference.named_parameters())
    groups = [
        {"params": [p for n, p in named.items() if n.endswith(end)], "weight_decay": decay}
        for end, decay in (("weight", 0.01), ("bias", 0.0))
    ]
    sgd = torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True, foreach=False)
    _steps(reference, sgd, blocks)
    for found, expected in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_late_gradients_go_on_from_a_checkpoint_bit_for_bit():
    torch.manual_seed(0)
    whole = _SkipsBlocks()
    resumed = copy.deepcopy(whole)
    blocks = [0, 1, 0, 2, 1, 2]
    _steps(whole, build_optimizer(whole, OptimizerConfig(), 0.01), blocks)
    first = build_optimizer(resumed, OptimizerConfig(), 0.01)
    _steps(resumed, first, blocks[:3])
    second = build_optimizer(resumed, OptimizerConfig(), 0.01)
    second.load_state_dict(first.state_dict())
    _steps(resumed, second, blocks[3:])
    for found, expected in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_complex_parameters_are_trained(name):
    layer = nn.Linear(3, 3, dtype=torch.cfloat)
    before = layer.weight.detach().clone()
    optimizer = build_optimizer(layer, OptimizerConfig(name=name), 0.01)
    layer(torch.ones(2, 3, dtype=torch.cfloat)).abs().sum().backward()
    optimizer.step()
    assert not torch.equal(layer.weight, before)
    assert torch.isfinite(torch.view_as_real(layer.weight)).all()
