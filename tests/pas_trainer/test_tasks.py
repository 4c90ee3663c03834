"""What every task promises, shown on the project's own: whole searches, and settings refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_trials
import torch

from pas_trainer import (
    ControlConfig,
    DataConfig,
    Metric,
    OptimizerConfig,
    TaskConfig,
    build_compact,
    make_task,
    run_control,
    run_search,
    trace_supernet,
    train_supernet,
)
from search_space import SupernetConfig

KINDS = ("paired", "unpaired", "outlined")
METRICS = {
    "paired": {"psnr_db", "ssim"},
    "unpaired": {"swd"},
    "outlined": {"mask_map", "box_map", "mask_map_50", "box_map_50"},
}


class Stop(Exception):  # noqa: N818 - not an error
    """Ends a trial where it is."""


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def trial(kind, tmp_path_factory):
    return getattr(tiny_trials, kind)(tmp_path_factory.mktemp(kind))


@pytest.fixture(scope="module")
def supernet(trial, tmp_path_factory):
    folder = tmp_path_factory.mktemp("supernet")
    train_supernet(tiny_trials.pretraining(trial), folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(trial, supernet):
    return run_search(trial, supernet)


def test_a_search_meets_its_budget_and_measures_what_the_task_measures(kind, trial, undisturbed):
    metric = make_task(trial.task).metric.name
    assert undisturbed.macs_ratio <= 0.5
    assert undisturbed.metrics.keys() == undisturbed.test_metrics.keys() == METRICS[kind]
    assert undisturbed.score == undisturbed.metrics[metric]
    assert undisturbed.test_score == undisturbed.test_metrics[metric]
    assert set(undisturbed.previews) == {"pretrain", "search", "finetune"}
    assert all(picture.shape[2] == 3 for picture in undisturbed.previews.values())


def test_a_trial_that_was_stopped_goes_on_bit_identically(trial, supernet, undisturbed, tmp_path):
    """Stopped in the search and in fine-tuning; critics and their optimizers go on as well."""
    for place in (("search", 1), ("finetune", 1)):

        def report(epoch, place=place):
            if (epoch.phase, epoch.epoch) == place:
                raise Stop

        with pytest.raises(Stop):
            run_search(trial, supernet, report=report, checkpoint_folder=tmp_path)
    resumed = run_search(trial, supernet, checkpoint_folder=tmp_path)
    assert resumed.widths == undisturbed.widths
    assert resumed.metrics == undisturbed.metrics
    expected = undisturbed.network.state_dict()
    for name, tensor in resumed.network.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    for phase, picture in undisturbed.previews.items():
        assert (resumed.previews[phase] == picture).all(), phase


def test_the_network_comes_back_from_its_record(trial, undisturbed):
    architecture = undisturbed.architecture
    assert architecture.task == trial.task.name
    rebuilt = build_compact(architecture).eval()
    rebuilt.load_state_dict(undisturbed.network.state_dict())
    task = make_task(trial.task)
    data = task.load_data(trial.data, torch.device("cpu"))
    figures = task.evaluate(rebuilt, data.validation, data, torch.device("cpu"))
    assert figures == pytest.approx(undisturbed.metrics, rel=1e-4)  # laid out otherwise in memory


@pytest.mark.parametrize("control", ["supernet", "uniform"])
def test_controls_are_trained_alike(trial, supernet, control):
    result = run_control(ControlConfig(kind=control, trial=trial), supernet)
    assert set(result.previews) == {"control"}
    assert result.macs_ratio == 1 if control == "supernet" else result.macs_ratio <= 0.5


def test_costs_do_not_depend_on_where_a_network_is(trial):
    """The plan of a sweep is made on the meta device."""
    task = make_task(trial.task)
    about = task.open_data(trial.data)
    where = trial.supernet
    graphs = [
        trace_supernet(task.build(where.name, where.options, about, on_meta=on_meta), task, about)
        for on_meta in (False, True)
    ]
    assert graphs[0].count_macs() == graphs[1].count_macs() > 0
    assert graphs[0].full_widths() == graphs[1].full_widths()


def test_a_network_for_another_task_is_refused(trial):
    task = make_task(trial.task)
    about = task.open_data(trial.data)
    with pytest.raises(ValueError, match=r"returns|detector"):
        task.check_network(torch.nn.Conv2d(3, 4, 1), about)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"name": "instance_segmentatoin"}, "did you mean instance_segmentation"),
        ({"name": "import:nowhere"}, "import:package.module:Name"),
        ({"name": "import:no_such_module:Task"}, "task import:no_such_module:Task: there is no"),
        ({"name": "import:math:sqrt"}, "is no subclass of pas_trainer.Task"),
        ({"name": "import:pas_trainer:Task"}, "lacks judge, load_data, loss, open_data, preparer"),
        ({"name": "classification", "options": {"speed": 1}}, "unknown option 'speed'"),
        ({"name": "image_translation", "options": {"metric": "fid"}}, "known: psnr_db"),
        ({"name": "image_translation", "options": {"metric": "kid"}}, "option features is missing"),
        ({"name": "image_translation", "options": {"features": "vgg"}}, "features is 'vgg'; write"),
        ({"name": "image_translation", "options": {"features": 5}}, "features is 5; write import"),
        ({"name": "image_translation", "options": {"critic_width": 32.5}}, "a whole number in"),
        ({"name": "image_translation", "options": {"l1": -1}}, "option l1 is -1"),
        ({"name": "image_translation", "options": {"l2": 1}}, "unknown option 'l2'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_task(TaskConfig(**settings))


def test_a_data_set_of_another_task_is_refused(tmp_path):
    pairs = DataConfig(name="unpaired", root=str(tmp_path), image_size=64)
    with pytest.raises(ValueError, match=r"data\.name is unpaired, which this task cannot read"):
        make_task(TaskConfig()).check_data(pairs)
    with pytest.raises(ValueError, match=r"compares pairs, but data\.name is unpaired"):
        make_task(TaskConfig(name="image_translation")).check_data(pairs)


@pytest.mark.parametrize("name", ["", "Accuracy", "top-1", "2nd"])
def test_a_metric_has_a_name_that_can_be_a_key(name):
    with pytest.raises(ValueError, match="is no name"):
        Metric(name)


@pytest.mark.parametrize(
    ("figures", "sentence"),
    [
        ({"accuracy": 0.5, "loss": 0.7}, "'loss' has the name of something else"),
        ({"accuracy": 0.5, "test_mae": 0.7}, "'test_mae' has the name of something else"),
        ({"accuracy": 0.5, "map@50": 0.7}, "'map@50' is no name"),
        ({"mae": 0.7}, "the judge gave mae, but no accuracy"),
        ({}, "gave nothing"),
        ({"accuracy": 0.5, 3: 0.7}, "metric 3 is no name"),
        (0.5, "gave a float, not figures by name; return a dict with accuracy"),
        ({"accuracy": None}, "gave a NoneType as accuracy; return one real number"),
        ({"accuracy": "0.5"}, "gave a str as accuracy"),
        ({"accuracy": 0.5, "recalls": [0.5]}, "gave a list as recalls"),
        ({"accuracy": torch.ones(2)}, r"gave a Tensor of shape \(2,\) as accuracy"),
        ({"accuracy": torch.tensor(1j)}, "gave a complex as accuracy"),
    ],
)
def test_figures_that_cannot_be_recorded_are_refused(figures, sentence):
    with pytest.raises(ValueError, match=sentence):
        Metric("accuracy").check_figures(figures)


def test_figures_are_plain_numbers_whatever_a_judge_counts_in():
    figures = {"accuracy": torch.tensor(0.5), "mae": np.float32(2), "hits": 3, "peak": np.ones(())}
    plain = Metric("accuracy").check_figures(figures)
    assert json.loads(json.dumps(plain)) == {"accuracy": 0.5, "mae": 2.0, "hits": 3.0, "peak": 1.0}


@pytest.mark.parametrize(("image_size", "images"), [(64, 32), (512, 8), (4096, 1)])
def test_large_images_are_translated_in_smaller_batches(image_size, images):
    asked = []

    class Pictures:
        def eval_batches(self, batch_size, *_):
            asked.append(batch_size)
            yield (torch.zeros((1, 3, 16, 16), dtype=torch.uint8),) * 2

    plain = {"mean": [0.5] * 3, "std": [0.5] * 3, "channels": 3}
    data = SimpleNamespace(image_size=image_size, paired=True, **plain)
    task = make_task(TaskConfig(name="image_translation"))
    figures = task.evaluate(torch.nn.Identity(), Pictures(), data, torch.device("cpu"))
    assert asked == [images]
    assert figures["psnr_db"] == 100.0
    task.metric = Metric("psnr")
    with pytest.raises(ValueError, match="the judge gave psnr_db, ssim, but no psnr"):
        task.evaluate(torch.nn.Identity(), Pictures(), data, torch.device("cpu"))


def test_a_task_of_the_users_own_is_searched(tmp_path, monkeypatch):
    """The example of the documentation; lower is better."""
    examples = Path(__file__).parents[2] / "examples"
    monkeypatch.chdir(examples)
    monkeypatch.syspath_prepend(str(examples))
    base = tiny_trials.paired(tmp_path / "unused")
    trial = dataclasses.replace(
        base,
        task=TaskConfig(name="import:own_task:DigitValue"),
        data=DataConfig(name="custom"),
        supernet=SupernetConfig(name="repvgg_tiny", options={"width": 0.5}),
        optimizer=OptimizerConfig(batch_size=64, learning_rate=0.02, warmup_epochs=0),
    )
    train_supernet(tiny_trials.pretraining(trial), tmp_path / "supernet")
    result = run_search(trial, tmp_path / "supernet")
    assert 0.97 * 0.5 <= result.macs_ratio <= 0.5
    assert result.score == result.metrics["mean_error"] < 2.5  # of guessing 4.5 always
    assert result.previews == {}


def test_batches_that_only_their_task_understands_want_its_own_plain():
    task = make_task(TaskConfig())
    images, labels = torch.full((2, 1, 3, 3), 255, dtype=torch.uint8), torch.arange(2)
    plain, targets = task.plain((images, labels))
    assert (plain == 1).all()
    assert torch.equal(targets, labels)
    for batch in ((images.float(), labels), (images, {"labels": labels}), ([images], labels)):
        with pytest.raises(ValueError, match=r"override Task\.plain"):
            task.plain(batch)
