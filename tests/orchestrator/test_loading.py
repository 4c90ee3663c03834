from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from orchestrator.errors import UserError
from orchestrator.loading import load_sweep, parse_sweep, relative_paths
from search_space import GroupRules, WidthRules

DIGITS = Path(__file__).parents[2] / "examples" / "digits.yaml"


def test_the_examples_are_valid(monkeypatch):
    monkeypatch.chdir(DIGITS.parent)
    monkeypatch.syspath_prepend(str(DIGITS.parent))
    for path in DIGITS.parent.glob("*.yaml"):
        assert load_sweep(path).name == path.stem


def test_values_can_be_set_from_the_command_line():
    config = load_sweep(DIGITS, ["search.epochs=3", "budget.limits=[0.3]", "seed=5"])
    assert (config.search.epochs, config.budget.limits, config.seed) == (3, [0.3], 5)


@pytest.mark.parametrize("number", ["5e-1", "+.5e0", "5.e-1", "0.05e1", "50E-2"])
def test_numbers_with_an_exponent_are_numbers_everywhere(number):
    config = load_sweep(DIGITS, [f"supernet.options={{width: {number}}}"])
    assert config.supernet.options == {"width": 0.5}


def test_smoke_shrinks_and_is_another_sweep():
    whole, smoke = load_sweep(DIGITS), load_sweep(DIGITS, smoke=True)
    assert smoke.name == "digits-smoke"
    assert smoke.sweep_id != whole.sweep_id
    assert smoke.finetune.epochs == 1
    assert smoke.data.train_images == 1000
    assert load_sweep(DIGITS, ["data.train_images=300"], smoke=True).data.train_images == 300


def test_controls_are_none_unless_asked_for_and_survive_a_round_trip():
    assert load_sweep(DIGITS).controls == []
    config = load_sweep(DIGITS, ["controls=[uniform, supernet]"], smoke=True)
    assert config.controls == ["uniform", "supernet"]
    assert parse_sweep(config.model_dump(mode="json"), "again") == config


def test_relative_roots_are_relative_to_the_file(tmp_path):
    document = yaml.safe_load(DIGITS.read_text())
    document["data"] = {"name": "imagefolder", "root": "images", "image_size": 32}
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(document))
    assert load_sweep(path).data.root == str(tmp_path / "images")


def test_databases_are_relative_to_the_file(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(DIGITS.read_text())
    found = load_sweep(path, ["tracking.uri=sqlite:///runs/mlflow.db"])
    assert found.tracking.uri == f"sqlite:///{tmp_path}/runs/mlflow.db"
    for uri in (f"sqlite:///{tmp_path}/mlflow.db", "http://host:5000"):
        assert load_sweep(path, [f"tracking.uri={uri}"]).tracking.uri == uri
    assert relative_paths({"tracking": {"uri": "sqlite:///mlflow.db"}}) == ["tracking.uri"]


def test_weights_files_are_relative_to_the_file_and_published_names_are_not(tmp_path):
    document = yaml.safe_load(DIGITS.read_text())
    path = tmp_path / "sweep.yaml"
    for given, expected in (
        ("nets/w.safetensors", str(tmp_path / "nets" / "w.safetensors")),
        ("/elsewhere/w.pt", "/elsewhere/w.pt"),
        ("DEFAULT", "DEFAULT"),
    ):
        document["supernet"] = {"name": "torchvision:resnet18", "weights": given}
        path.write_text(yaml.safe_dump(document))
        assert load_sweep(path).supernet.weights == expected


def test_a_supernet_is_described_whole():
    sets = [
        "supernet={name: 'torchvision:resnet18', options: {stem: cifar}, "
        "scope: [layer1], pinned: [layer1.0.conv1]}"
    ]
    supernet = load_sweep(DIGITS, sets).supernet
    assert supernet.options == {"stem": "cifar"}
    assert (supernet.scope, supernet.pinned) == (("layer1",), ("layer1.0.conv1",))
    ids = {load_sweep(DIGITS, [*sets, s]).sweep_id for s in ("seed=0", "supernet.pinned=[]")}
    assert len(ids) == 2


def test_smoke_keeps_weights_as_they_are():
    sets = ["supernet={name: repvgg_tiny, weights: w.pt}", "pretrain.epochs=0"]
    assert load_sweep(DIGITS, sets).pretrain.epochs == 0
    assert load_sweep(DIGITS, sets, smoke=True).pretrain.epochs == 0
    assert load_sweep(DIGITS, smoke=True).pretrain.epochs == 1


def test_only_what_decides_results_changes_the_id():
    config = load_sweep(DIGITS)
    for override in (
        "resources.cpus_per_trial=2",
        "resources.prices={cpu_hour: 0.04, currency: EUR}",
        "tracking.uri=http://h:1",
        "trials_per_cell=9",
        "controls=[supernet, uniform]",
        "budget.schedule=separate",
        "budget.limits=[0.3]",
        "strengths=[2]",
    ):
        assert load_sweep(DIGITS, [override]).sweep_id == config.sweep_id, override
    for override in (
        "seed=1",
        "search.epochs=9",
        "budget.also={num_params: 0.5}",
        "optimizer.momentum=0.8",
        "budget.schedule=annealed",
    ):
        assert load_sweep(DIGITS, [override]).sweep_id != config.sweep_id, override
    annealed = ["budget.schedule=annealed"]
    fewer = [*annealed, "budget.limits=[0.5, 0.25]"]
    assert load_sweep(DIGITS, annealed).sweep_id != load_sweep(DIGITS, fewer).sweep_id


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("serch.epochs=3", ["unknown key serch", "did you mean search?"]),
        ("search.epoch=3", ["unknown key search.epoch", "did you mean epochs?"]),
        ("search.epochs=x", ["search.epochs is 'x'", "integer"]),
        ("search.epochs=0", ["search", "epochs is 0", "at least 1"]),
        ("budget.limits=[0]", ["limits has 0", "above 0"]),
        ("budget.limits=[-0.5]", ["limits has -0.5"]),
        ("budget.limits=[]", ["budget.limits"]),
        ("budget.limits=[0.5, 0.5]", ["same limit twice"]),
        ("budget.resource=flops", ["'flops'", "macs, num_params"]),
        ("budget.resource=latency", ["resource is 'latency'", "latency_ms"]),
        ("budget.limits=[3 ms]", ["limits has '3 ms'", "units k, M, G"]),
        ("budget.limits=[0.5, true]", ["budget.limits[1]", "True is no limit", "a number"]),
        ("budget.also={num_params: null}", ["budget.also.num_params", "None is no limit"]),
        ("budget.also={macs: 0.5}", ["also has 'macs'", "limit limits already"]),
        ("budget.also={energy: 0.5}", ["also is 'energy'", "macs, num_params"]),
        ("budget.also={num_params: -1}", ["also.num_params is -1", "above 0"]),
        ("width_rules.divisor=0", ["divisor is 0", "at least 1"]),
        ("width_rules.groups={a: {floor: 2}}", ["width_rules.groups.a", "floor is 2", "(0, 1]"]),
        ("width_rules.groups={a: {divsor: 2}}", ["groups.a.divsor", "did you mean divisor?"]),
        ("strengths=[-1]", ["strengths[0] is -1"]),
        ("strengths=[.nan]", ["strengths[0]"]),
        ("trials_per_cell=0", ["trials_per_cell is 0"]),
        ("controls=[random]", ["controls: ['random']", "known", "supernet, uniform"]),
        ("controls=[uniform, uniform]", ["controls: ['uniform', 'uniform']", "at most once"]),
        ("controls=uniform", ["controls: 'uniform' is no list", "supernet, uniform"]),
        ("controls=[[uniform]]", ["controls: [['uniform']]", "supernet, uniform"]),
        ("control=[uniform]", ["unknown key control", "did you mean controls?"]),
        ("supernet.name=repvgg_tiiny", ["'repvgg_tiiny'", "did you mean repvgg_tiny?"]),
        ("supernet.options.width=0", ["width", "(0, 16]"]),
        ("supernet.options.depth=2", ["'depth'", "known: width"]),
        ("supernet.name=resnet18", ["did you mean torchvision:resnet18?"]),
        ("supernet.name=torchvision:resnt18", ["'resnt18'", "did you mean resnet18"]),
        ("supernet.name=import:nets", ["import:package.module:function"]),
        ("supernet.weights=DEFAULT", ["'DEFAULT'", ".safetensors"]),
        ("supernet.weigths=w.pt", ["weigths", "did you mean weights?"]),
        ("supernet.pinned=stem", ["supernet.pinned is 'stem'"]),
        ("pretrain.epochs=0", ["pretrain.epochs is 0", "supernet.weights"]),
        ("pretrain.epochs=-1", ["epochs is -1"]),
        ("data.name=minst", ["'minst'", "digits, cifar10, imagefolder"]),
        ("data=7", ["data is 7"]),
        ("hyperparameters.momentum={low: 0, high: 1}", ["'momentum'", "learning_rate"]),
        ("hyperparameters.learning_rate={low: 1, high: 0.1}", ["ascending"]),
        ("hyperparameters.learning_rate.hihg=1", ["hihg", "did you mean high?"]),
        ("resources.workers_per_trial=0", ["workers_per_trial is 0"]),
        ("resources.workers_per_trial=3", ["batch_size is 64", "3 workers", "multiple"]),
        ("search.batch_size=1", ["batch_size is 1", "at least 2"]),
        ("resources={workers_per_trial: 2, gpus_per_trial: 1}", ["gpus_per_trial is 1", "of 2"]),
        ("resources.prices={cpu_hour: -1}", ["prices.cpu_hour is -1", "greater than or equal"]),
        ("resources.prices={cpu_hour: .inf}", ["prices.cpu_hour is inf", "finite"]),
        ("resources.prices={currency: EUR}", ["resources.prices: names no price", "gpu_hour"]),
        ("resources.prices={gpu_hours: 1}", ["prices.gpu_hours", "did you mean gpu_hour?"]),
        ("resources.prices=3", ["resources.prices is 3"]),
        (
            "resources={gpus_per_trial: 1, prices: {cpu_hour: 1}}",
            ["gpus_per_trial is 1, but prices has no gpu_hour"],
        ),
        ("tracking.uri=http://me:secret@h:1", ["credentials", "MLFLOW_TRACKING_USERNAME"]),
        ("tracking.uri=http://me:sec/ret@h:1", ["credentials", "MLFLOW_TRACKING_USERNAME"]),
        ("tracking.uri=sqlite://", ["tracking.uri", "sqlite:///FILE"]),
        ("tracking.uri='sqlite:///:memory:'", ["tracking.uri", "sqlite:///FILE"]),
        ("data.root=2024-13-45", ["not valid YAML"]),
        ("data={name: imagefolder, root: ~nosuch/x}", ["data.root is '~nosuch/x'", "no path"]),
        ("resources.cpus_per_trial=.inf", ["cpus_per_trial is inf", "finite"]),
        ("resources.gpus_per_trial=.inf", ["gpus_per_trial is inf", "finite"]),
        ("strengths=[1234561, 1234564]", ["strengths 1234561.0 and 1234564.0", "six digits"]),
        ("budget.limits=[0.3333333, 0.333333]", ["limits 0.3333333 and 0.333333", "six digits"]),
        ("tracking.uri=ftp://h", ["tracking.uri", "http://"]),
        ("name=Bad Name", ["name is 'Bad Name'"]),
        ("task=segmentation", ["task: name is 'segmentation'", "instance_segmentation"]),
        ("task={name: classification, options: {speed: 1}}", ["unknown option 'speed'"]),
        ("data={name: custom}", ["data.name is custom", "digits, cifar10, imagefolder"]),
        (
            "task={name: image_translation, options: {metric: psnr}}",
            ["option metric is 'psnr'", "psnr_db"],
        ),
        ("search.epochs", ["has no '='"]),
        ("name.x=1", ["name is a value"]),
        ("seed=[1", ["not valid YAML"]),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(override, parts):
    with pytest.raises(UserError) as caught:
        load_sweep(DIGITS, [override])
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_secrets_in_a_refused_uri_are_not_repeated():
    with pytest.raises(UserError) as caught:
        load_sweep(DIGITS, ["tracking.uri=http://me:secret@h:1"])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("a: [", "line"),
        ("seed: 1\noptimizer: {}\nseed: 2\n", "at line 3: seed is there twice"),
        ("data: {name: digits, name: cifar10}", "at line 1: name is there twice"),
        ("- 1", "top level"),
        ("", "top level"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_files_that_are_no_sweep_are_refused(tmp_path, content, part):
    path = tmp_path / "sweep.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=part):
        load_sweep(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml does not exist"):
        load_sweep(tmp_path / "none.yaml")


def test_a_missing_section_is_named(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text("name: x\ndata: {name: digits}\nstrengths: [1]\nbudget: {limits: [0.5]}\n")
    with pytest.raises(UserError, match="supernet is missing"):
        load_sweep(path)


def test_budgets_and_width_rules_survive_a_round_trip():
    config = load_sweep(
        DIGITS,
        [
            "budget={resource: latency_ms, limits: [0.5, 0.8 ms], also: {num_params: 3 M}}",
            "width_rules={divisor: 8, groups: {'stages.2.*': {divisor: 4}, a: {floor: 0.5}}}",
        ],
    )
    assert config.budget.limits == [0.5, "0.8 ms"]
    own = {"stages.2.*": GroupRules(divisor=4), "a": GroupRules(floor=0.5)}
    assert config.width_rules == WidthRules(divisor=8, groups=own)
    again = parse_sweep(config.model_dump(mode="json"), "again")
    assert again == config
    assert again.sweep_id == config.sweep_id


def test_the_same_limit_in_two_units_is_refused():
    with pytest.raises(UserError, match="name the same limit twice"):
        load_sweep(DIGITS, ["budget.limits=[300 M, 0.3 G]"])


def test_workers_share_the_batches_of_the_search_too():
    shared = ["resources.workers_per_trial=2", "search.batch_size=33"]
    with pytest.raises(UserError, match=r"search\.batch_size is 33, which 2 workers"):
        load_sweep(DIGITS, shared)
    assert load_sweep(DIGITS, [*shared[:1], "search.batch_size=34"]).search.batch_size == 34
