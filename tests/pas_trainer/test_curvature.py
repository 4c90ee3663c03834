"""Gradients of gates that tell what closing them changes, against exact differences."""

from __future__ import annotations

import torch
from torch import nn

from pas_trainer.curvature import DECAY, GateCurvature
from pas_trainer.gates import attach_gates
from search_space import trace_channels

BATCH = 64


def test_the_estimate_is_the_weighted_variance_times_the_images():
    torch.manual_seed(0)
    gradients = torch.randn(7, 5)
    curvature = GateCurvature(5)
    found = [curvature.update(row, num_images=10) for row in gradients]
    assert found[0].abs().max() < 1e-5  # one batch has no variance
    weights = DECAY ** torch.arange(6.0, -1, -1)
    weights = (weights / weights.sum())[:, None]
    mean = (weights * gradients).sum(0)
    torch.testing.assert_close(found[-1], 10 * (weights * (gradients - mean) ** 2).sum(0))


def test_of_open_gates_at_the_optimum_it_is_the_exact_difference():
    """Three gates, each alone in a least-squares model with unit noise."""
    torch.manual_seed(0)
    effect = torch.tensor([0.2, 0.7, 1.5])
    curvature, found = GateCurvature(3), []
    for _ in range(3000):
        inputs, noise = torch.randn(BATCH, 3), torch.randn(BATCH, 3)
        scores = nn.Parameter(torch.ones(3))
        targets = effect * inputs + noise
        ((targets - scores * effect * inputs).square() / 2).mean(0).sum().backward()
        curvature.correct([scores], torch.ones(3, dtype=torch.bool), BATCH, 1.0)
        found.append(scores.grad)
    exact = -effect.square() / 2  # mean loss with it minus without it
    torch.testing.assert_close(torch.stack(found[100:]).mean(0), exact, atol=0.01, rtol=0.1)


def test_closed_gates_keep_their_gradient():
    torch.manual_seed(0)
    curvature, is_open = GateCurvature(2), torch.tensor([True, False])
    for _ in range(3):
        scores = nn.Parameter(torch.ones(2))
        scores.grad = (gradient := torch.randn(2)).clone()
        curvature.correct([scores], is_open, BATCH, 1.0)
    assert scores.grad[0] < gradient[0]
    assert scores.grad[1] == gradient[1]


def _mean_gradients(network: nn.Module, curvature: float) -> torch.Tensor:
    torch.manual_seed(1)
    graph = trace_channels(network, (torch.zeros(1, 3, 8, 8),))
    gated = attach_gates(network, graph).train()
    total = torch.zeros(graph.groups[0].size)
    for _ in range(40):
        gated.zero_grad()
        images, labels = torch.randn(BATCH, 3, 8, 8), torch.randint(0, 4, (BATCH,))
        nn.functional.cross_entropy(gated(images), labels).backward()
        gated.correct_gradients(BATCH, curvature)
        total += gated.gates[graph.groups[0].name].scores.grad
    return total / 40


def test_a_layer_before_batch_norm_is_protected():
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Conv2d(6, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    )
    plain, corrected = _mean_gradients(network, 0.0), _mean_gradients(network, 1.0)
    # All open channels scaled alike change nothing, so plain gradients keep none of them open.
    assert abs(plain.sum()) < 1e-3 * plain.abs().sum()
    assert corrected.sum() < -10 * abs(plain.sum())
    assert (corrected < plain).all()
