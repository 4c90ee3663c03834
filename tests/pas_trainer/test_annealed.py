"""A front of budgets from one search, on real digits."""

from __future__ import annotations

import copy
import dataclasses
import itertools

import pytest
import tiny_trials
import torch
from digits_trial import DATA, RECIPE, TRIAL, train_digits_supernet
from latency_tables import write_product_table

from pas_trainer import (
    AnnealedConfig,
    FinetuneConfig,
    SearchConfig,
    build_compact,
    load_data,
    read_supernet_result,
    run_annealed,
    run_search,
    train_supernet,
)
from pas_trainer.compute import images_per_epoch
from pas_trainer.search import SearchTrial
from search_space import (
    Budget,
    GroupRules,
    WidthRules,
    build_supernet,
    narrow_graph,
    trace_channels,
    uniform_widths,
)

CONFIG = AnnealedConfig(
    trial=dataclasses.replace(
        TRIAL,
        budget=Budget(limit=0.6),
        finetune=FinetuneConfig(epochs=4, recalibration_batches=5),
    ),
    further=(Budget(limit=0.35), Budget(limit=0.2)),
)
LIMITS = (0.6, 0.35, 0.2)


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("supernet")
    train_digits_supernet(folder)
    return folder


def front_of(config, supernet, **options):
    found = {}
    run_annealed(config, supernet, found.__setitem__, **options)
    return [found[step] for step in sorted(found)]


@pytest.fixture(scope="module")
def front(supernet):
    return front_of(CONFIG, supernet)


def weights_of(result):
    return result.training_network.state_dict()


def same(a, b) -> bool:
    first, second = weights_of(a), weights_of(b)
    return list(first) == list(second) and all(torch.equal(t, second[n]) for n, t in first.items())


def test_every_budget_gets_a_trained_network(front):
    assert len(front) == len(LIMITS)
    for result, limit in zip(front, LIMITS, strict=True):
        assert 0.97 * limit <= result.macs_ratio <= limit
        assert result.score > 0.7


def test_the_first_is_what_a_trial_by_itself_finds(front, supernet):
    search = dataclasses.replace(CONFIG.trial.search, toward_uniform=0.0)
    alone = run_search(dataclasses.replace(CONFIG.trial, search=search), supernet)
    assert same(front[0], alone)
    assert front[0].training_macs == alone.training_macs


def test_each_network_is_a_part_of_the_one_before(front):
    for looser, tighter in itertools.pairwise(front):
        for name, kept in tighter.architecture.open_channels.items():
            assert set(kept) <= set(looser.architecture.open_channels[name])


def test_uniform_widths_are_one_share_of_the_network_before(supernet):
    search = dataclasses.replace(CONFIG.trial.search, epochs=1, toward_uniform=1.0)
    finetune = FinetuneConfig(epochs=1, recalibration_batches=1)
    trial = dataclasses.replace(CONFIG.trial, search=search, finetune=finetune)
    front = front_of(dataclasses.replace(CONFIG, trial=trial), supernet)
    graph = trace_channels(build_supernet("repvgg_tiny", 10, 1, width=0.5), torch.empty(1, 1, 8, 8))
    before = graph
    for result, limit in zip(front, LIMITS, strict=True):
        budget = Budget(limit=limit).absolute_in(graph)
        rules = trial.width_rules.for_narrower(graph.groups, before.groups)
        assert result.widths == uniform_widths(before, budget, rules)
        kept = result.architecture.open_channels
        before = narrow_graph(graph, result.training_network, kept)


def test_an_architecture_of_the_front_rebuilds_its_network(front):
    result = front[-1]
    rebuilt = build_compact(result.architecture, deploy=False)
    rebuilt.load_state_dict(weights_of(result))
    x = torch.rand(8, 1, 8, 8)
    torch.testing.assert_close(rebuilt.eval()(x), result.training_network(x))


def test_compute_adds_up_over_the_chain(front, supernet):
    """3 MACs per image and step; the first search runs the supernet, others what they narrow."""
    trained = read_supernet_result(supernet)
    num_images = len(load_data(DATA).train)
    images = images_per_epoch(num_images, RECIPE.batch_size)
    spent, searched = trained.training_macs, trained.macs
    for result, (search, finetune) in zip(front, [(3, 4), (2, 2), (2, 2)], strict=True):
        batch_size = SearchConfig(epochs=search).recipe(RECIPE, num_images, 1).batch_size
        search_images = images_per_epoch(num_images, batch_size)
        recalibration = result.macs * 5 * RECIPE.batch_size
        spent += 3 * (search_images * searched * search + images * result.macs * finetune)
        spent += recalibration
        assert result.training_macs == spent
        searched = result.macs


@pytest.mark.parametrize(
    ("step", "phase", "epoch"),
    [(0, "search", 2), (0, "finetune", 4), (1, "search", 1), (2, "finetune", 1)],
)
def test_a_front_that_was_stopped_goes_on_bit_identically(
    front, supernet, tmp_path, step, phase, epoch
):
    class StoppedError(Exception):
        pass

    def stop(now, report):
        if (now, report.phase, report.epoch) == (step, phase, epoch):
            raise StoppedError

    before = {}
    with pytest.raises(StoppedError):
        run_annealed(CONFIG, supernet, before.__setitem__, report=stop, checkpoint_folder=tmp_path)
    assert sorted(before) == list(range(step))
    reports, after = [], {}
    run_annealed(
        CONFIG,
        supernet,
        after.__setitem__,
        report=lambda now, report: reports.append((now, report.phase, report.epoch)),
        checkpoint_folder=tmp_path,
    )
    assert sorted(after) == list(range(step, len(LIMITS)))
    for index, result in (before | after).items():
        assert same(result, front[index])
        assert result.widths == front[index].widths
        assert result.training_macs == front[index].training_macs
        assert set(result.seconds) == {"search", "finetune"}
    epochs = [(k, *at) for k in range(3) for at in _epochs_of(k)]
    assert reports == epochs[epochs.index((step, phase, epoch)) :]  # the last one once more


def _epochs_of(step):
    search, finetune = ((3, 4), (2, 2), (2, 2))[step]
    yield from (("search", epoch) for epoch in range(1, search + 1))
    yield from (("finetune", epoch) for epoch in range(1, finetune + 1))


def test_floors_and_divisors_are_those_of_the_supernet(supernet):
    rules = WidthRules(floor=0.25, divisor=2, groups={"stages.0.0": GroupRules(floor=0.75)})
    config = dataclasses.replace(
        CONFIG, trial=dataclasses.replace(CONFIG.trial, width_rules=rules), further=CONFIG.further
    )
    full = {"stages.0.0": 8, "stages.1.0": 16, "stages.1.1": 16, "stages.2.0": 32, "stages.2.1": 32}
    for result in front_of(config, supernet):
        for name, width in result.widths.items():
            assert width % 2 == 0
            assert width >= full[name] * (0.75 if name == "stages.0.0" else 0.25)


def test_limits_on_latency_hold_all_along(supernet, tmp_path):
    trial = dataclasses.replace(
        CONFIG.trial,
        budget=Budget(resource="latency_ms", limit=0.5, also={"macs": 0.9}),
        latency_table=str(write_product_table(tmp_path)),
    )
    further = Budget(resource="latency_ms", limit=0.3, also={"macs": 0.9})
    full = [1, 8, 16, 16, 32, 32]
    whole = 1e-3 * (sum(a * b for a, b in itertools.pairwise(full)) + 3 * full[-1])
    front = front_of(AnnealedConfig(trial=trial, further=(further,)), supernet)
    for result, limit in zip(front, (0.5, 0.3), strict=True):
        assert 0.97 * limit * whole <= result.predicted_latency_ms <= limit * whole


def test_budgets_must_go_from_loose_to_tight(supernet):
    wrong = dataclasses.replace(CONFIG, further=(Budget(limit=0.2), Budget(limit=0.35)))
    with pytest.raises(ValueError, match="must go from loose to tight, but"):
        front_of(wrong, supernet)


def test_budgets_must_limit_the_same():
    with pytest.raises(ValueError, match="limit different resources"):
        dataclasses.replace(CONFIG, further=(Budget(resource="num_params", limit=0.2),))


def test_critics_go_on_from_budget_to_budget_also_after_a_kill(tmp_path, monkeypatch):
    trial = tiny_trials.unpaired(tmp_path / "data")
    train_supernet(tiny_trials.pretraining(trial), tmp_path / "supernet")
    config = AnnealedConfig(
        trial=dataclasses.replace(trial, budget=Budget(limit=0.7)), further=(Budget(limit=0.4),)
    )
    seen = []
    real = SearchTrial.run

    def run(self, *args, **keep):
        seen.append(copy.deepcopy(self.companion.modules.state_dict()))
        result = real(self, *args, **keep)
        seen.append(copy.deepcopy(self.companion.modules.state_dict()))
        return result

    with monkeypatch.context() as patch:
        patch.setattr(SearchTrial, "run", run)
        undisturbed = front_of(config, tmp_path / "supernet")
    first, trained, second, _ = seen
    assert all(torch.equal(second[name], tensor) for name, tensor in trained.items())
    assert not all(torch.equal(first[name], tensor) for name, tensor in trained.items())

    def kill(step, epoch):
        if (step, epoch.phase) == (1, "search"):
            raise KeyboardInterrupt

    folder = tmp_path / "checkpoints"
    folder.mkdir()
    with pytest.raises(KeyboardInterrupt):
        front_of(config, tmp_path / "supernet", checkpoint_folder=folder, report=kill)
    resumed = front_of(config, tmp_path / "supernet", checkpoint_folder=folder)
    assert same(resumed[-1], undisturbed[-1])
