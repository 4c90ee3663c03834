from __future__ import annotations

import pytest
import torch

from pas_trainer import attach_gates
from pas_trainer.score_mean import ScoreMean
from search_space import build_supernet, trace_channels

CPU = torch.device("cpu")


@pytest.fixture
def gated():
    model = build_supernet("repvgg_tiny", 10, 1)
    return attach_gates(model, trace_channels(model, torch.empty(1, 1, 8, 8)))


def follow(gated, mean, moments):
    """Show the mean different scores at each moment; return them, by moment."""
    seen = []
    for moment in moments:
        for gate in gated.gates.values():
            gate.scores.data = torch.rand(gate.scores.shape)
        mean.add(torch.tensor(moment, dtype=torch.float64))
        seen.append([gate.scores.detach().clone() for gate in gated.gates.values()])
    return seen


def test_only_the_end_of_a_search_counts(gated):
    mean = ScoreMean(gated, 0.7, CPU)
    seen = follow(gated, mean, [0.0, 0.5, 0.69, 0.7, 0.8, 0.9])
    mean.settle()
    whole = ScoreMean(gated, 0.0, CPU)
    follow(gated, whole, [-1.0])  # before the search, where steps are recorded
    assert not whole.state_dict()["count"]
    mean.settle()
    for k, gate in enumerate(gated.gates.values()):
        torch.testing.assert_close(gate.scores.data, sum(s[k] for s in seen[3:]) / 3)


def test_where_nothing_was_counted_the_last_scores_stay(gated):
    mean = ScoreMean(gated, 1.0, CPU)
    (last,) = follow(gated, mean, [0.9])
    mean.settle()
    assert all(torch.equal(g.scores, s) for g, s in zip(gated.gates.values(), last, strict=True))


def test_it_goes_on_from_what_another_knew(gated):
    first, second = (ScoreMean(gated, 0.0, CPU) for _ in range(2))
    seen = follow(gated, first, [0.1, 0.2])
    second.load_state_dict({k: v.clone() for k, v in first.state_dict().items()})
    seen += follow(gated, second, [0.3])
    second.settle()
    for k, gate in enumerate(gated.gates.values()):
        torch.testing.assert_close(gate.scores.data, sum(s[k] for s in seen) / 3)
