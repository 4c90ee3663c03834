from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from pas_trainer import Gate, attach_gates
from pas_trainer.gates import GateVector
from search_space import RepVGGBlock, WidthRules, build_supernet, trace_channels

SCORE = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 0.75, 1.0])


def test_a_new_gate_is_open_everywhere():
    assert Gate(5).open_mask().all()


def test_a_gate_is_open_above_one_half():
    gate = Gate(3)
    gate.scores.data = torch.tensor([0.5, 0.51, -3.0])
    assert gate.open_mask().tolist() == [False, True, False]
    assert gate().tolist() == [0.0, 1.0, 0.0]


def test_the_highest_scores_stay_open_when_all_fall():
    gate = Gate(4, lowest=2)
    gate.scores.data = torch.tensor([-1.0, 0.2, -5.0, 0.1])
    assert gate.open_mask().tolist() == [False, True, False, True]


def test_the_gradient_passes_straight_through_even_where_closed():
    gate = Gate(3)
    gate.scores.data = torch.tensor([1.0, 0.0, 1.0])
    (gate() * torch.tensor([2.0, 3.0, 5.0])).sum().backward()
    assert gate.scores.grad.tolist() == [2.0, 3.0, 5.0]


@given(st.lists(st.tuples(st.lists(SCORE, min_size=1, max_size=6), st.integers(1, 6)), min_size=1))
def test_all_gates_at_once_are_what_each_one_is(groups):
    gates = []
    for scores, lowest in groups:
        gates.append(Gate(len(scores), min(lowest, len(scores))))
        gates[-1].scores.data = torch.tensor(scores)
    vector = GateVector(gates)
    assert torch.equal(vector(), torch.cat([gate() for gate in gates]))
    assert vector.widths().tolist() == [float(gate.open_mask().sum()) for gate in gates]
    (vector.widths() * torch.arange(1.0, 1 + len(gates))).sum().backward()
    for factor, gate in enumerate(gates, 1):
        assert gate.scores.grad.tolist() == [factor] * gate.scores.numel()


@pytest.mark.parametrize("gate", [Gate(4, lowest=2), GateVector([Gate(4, lowest=2)])])
def test_of_equal_scores_the_first_stay_open(gate):
    scores = gate.scores if isinstance(gate, Gate) else gate._gates[0].scores
    scores.data = torch.full((4,), 0.1)
    assert gate().tolist() == [1.0, 1.0, 0.0, 0.0]


def test_set_open_moves_only_contradicting_scores():
    gate = Gate(4)
    gate.scores.data = torch.tensor([0.9, 0.8, 0.1, 0.2])
    gate.set_open(torch.tensor([True, False, True, False]))
    assert gate.open_mask().tolist() == [True, False, True, False]
    assert gate.scores[0].item() == pytest.approx(0.9)
    assert gate.scores[3].item() == pytest.approx(0.2)


def test_open_gates_change_nothing_and_the_model_is_untouched():
    model = build_supernet("repvgg_tiny", 10, 1)
    before = copy.deepcopy(model.state_dict())
    gated = attach_gates(model, trace_channels(model, torch.empty(1, 1, 8, 8)))
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(gated.eval()(x), model.eval()(x))
    gated.train()(x).sum().backward()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(p.grad is None for p in model.parameters())


def masked_forward(network: nn.Module, masks: dict[str, torch.Tensor], x: torch.Tensor):
    """The paper's form: each block's activation times its gate; identity norms see the gate too.

    Written apart from the gates: a loop over the blocks with the branches spelled out.
    """
    gate = torch.ones(x.shape[1], dtype=x.dtype)
    for i, stage in enumerate(network.stages):
        for j, block in enumerate(stage):
            assert isinstance(block, RepVGGBlock)
            gated = x * gate.view(1, -1, 1, 1)
            y = block.norm3x3(block.conv3x3(gated))
            strided = gated[:, :, :: block.stride, :: block.stride]
            y = y + block.norm1x1(block.conv1x1(strided))
            if block.norm_identity is not None:
                norm = block.norm_identity
                open_part = norm(x) - norm.bias.view(1, -1, 1, 1)
                y = y + open_part * gate.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
            x, gate = torch.relu(y), masks[f"stages.{i}.{j}"]
    return network.classifier((x * gate.view(1, -1, 1, 1)).mean(dim=(2, 3)))


@pytest.mark.parametrize("training", [False, True])
def test_gating_readers_equals_gating_activations(make_gated, training):
    gated = make_gated(3).train(training)
    reference = copy.deepcopy(gated.network).train(training)
    masks = {n: g().detach().requires_grad_() for n, g in gated.gates.items()}
    x = torch.randn(6, 3, 8, 8, dtype=torch.float64)
    target = torch.randn(6, 4, dtype=torch.float64)
    expected, got = masked_forward(reference, masks, x), gated(x)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)
    ((expected - target) ** 2).sum().backward()
    ((got - target) ** 2).sum().backward()
    for name, gate in gated.gates.items():
        assert (~gate.open_mask()).any() or gate.scores.numel() == 1
        torch.testing.assert_close(gate.scores.grad, masks[name].grad, rtol=1e-9, atol=1e-9)


def test_cost_counts_open_channels_and_has_a_gradient(make_gated):
    gated = make_gated(1)
    widths = {n: int(g.open_mask().sum()) for n, g in gated.gates.items()}
    cost = gated.cost("macs")
    assert cost.item() == gated.graph.count_macs(widths)
    cost.backward()
    assert all((g.scores.grad > 0).all() for g in gated.gates.values())


def test_floors_come_from_the_rules():
    model = build_supernet("repvgg_tiny", 10, 1)
    graph = trace_channels(model, torch.empty(1, 1, 8, 8))
    gated = attach_gates(model, graph, WidthRules(floor=0.25))
    for group in graph.groups:
        assert gated.gates[group.name].lowest == group.size // 4


class Bottleneck(nn.Module):
    """A residual sum, a depth-wise convolution, concatenation and two readers of one map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.down, self.up = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 6, 1)
        self.side = nn.Conv2d(6, 5, 1)
        self.fc = nn.Linear(11, 3)

    def forward(self, x: torch.Tensor, masks: dict[str, torch.Tensor] | None = None):
        """With masks: the paper's form, activations times gates in front of whatever mixes them."""

        def gated(y: torch.Tensor, name: str) -> torch.Tensor:
            return y if masks is None else y * masks[name].view(1, -1, 1, 1)

        y = torch.relu(self.norm(self.stem(x)))
        inner = torch.relu(self.down(gated(self.depthwise(y), "stem")))
        y = torch.sigmoid(y + self.up(gated(inner, "down")))
        side = self.side(gated(y, "stem"))
        both = torch.cat([gated(y, "stem"), gated(side, "side")], 1)
        return self.fc(both.mean((2, 3)))


@pytest.mark.parametrize("training", [False, True])
def test_gating_readers_equals_gating_activations_in_any_network(training):
    torch.manual_seed(3)
    network = Bottleneck().double().train(training)
    x, target = torch.randn(6, 3, 8, 8).double(), torch.randn(6, 3).double()
    gated = attach_gates(network, trace_channels(network, x)).double().train(training)
    assert set(gated.gates) == {"stem", "down", "side"}
    for gate in gated.gates.values():
        gate.scores.data.copy_(torch.rand_like(gate.scores))
    masks = {n: g().detach().requires_grad_() for n, g in gated.gates.items()}
    assert all((mask == 0).any() for mask in masks.values())
    expected, got = copy.deepcopy(network)(x, masks), gated(x)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)
    ((expected - target) ** 2).sum().backward()
    ((got - target) ** 2).sum().backward()
    for name, gate in gated.gates.items():
        torch.testing.assert_close(gate.scores.grad, masks[name].grad, rtol=1e-9, atol=1e-9)
        assert (gate.scores.grad != 0).all()


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 6), nn.LayerNorm([6])], ids=["group", "layer"])
def test_norms_over_channels_leave_closed_ones_out(norm):
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.z = nn.Conv2d(3, 6, 1), copy.deepcopy(norm), nn.Conv2d(6, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            if isinstance(self.norm, nn.LayerNorm):
                return self.z(self.norm(y.movedim(1, -1)).movedim(-1, 1))
            return self.z(self.norm(y))

    torch.manual_seed(0)
    network, x = Normed().double(), torch.randn(3, 3, 4, 4).double()
    gated = attach_gates(network, trace_channels(network, x)).double()
    (gate,) = gated.gates.values()
    per_unit = 6 // len(gate.scores)
    gate.scores.data[0] = 0.0
    kept = [c for c in range(6) if c % (6 // per_unit) != 0]
    y = network.a(x)[:, kept]
    if per_unit == 1:
        hidden = nn.functional.layer_norm(y.movedim(1, -1), (5,)).movedim(-1, 1)
    else:
        hidden = nn.functional.group_norm(y, 2)
    expected = nn.functional.conv2d(hidden, network.z.weight[:, kept], network.z.bias)
    torch.testing.assert_close(gated(x), expected, rtol=1e-9, atol=1e-9)
    gated(x).square().sum().backward()
    assert (gate.scores.grad != 0).all()


class Recomputing(nn.Module):
    """Saves memory by running its middle again in the backward pass."""

    def __init__(self, use_reentrant: bool | None) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 5, 3, padding=1)
        self.last, self.use_reentrant = nn.Conv2d(5, 2, 1), use_reentrant

    def forward(self, x):
        x = self.first(x)
        if self.use_reentrant is None:
            return self.last(self.second(x).relu())
        between = checkpoint(lambda t: self.second(t).relu(), x, use_reentrant=self.use_reentrant)
        return self.last(between)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradients_are_those_without_activation_checkpointing(use_reentrant):
    gradients = []
    x = torch.rand(2, 3, 6, 6)
    for way in (use_reentrant, None):
        torch.manual_seed(0)
        model = Recomputing(way)
        gated = attach_gates(model, trace_channels(model, x))
        for gate in gated.gates.values():
            gate.set_open(torch.arange(len(gate.scores)) % 2 == 0)
        gated(x).square().sum().backward()
        gradients.append({name: p.grad for name, p in gated.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


class OrderedNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.keys, self.values = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.last(self.values(self.keys(x)))


def test_layers_may_have_names_of_a_dictionarys_methods():
    network = OrderedNetwork()
    gated = attach_gates(network, trace_channels(network, torch.empty(1, 3, 4, 4)))
    assert set(gated.gates) == {"keys", "values"}
