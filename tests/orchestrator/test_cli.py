"""Bad input: one sentence on stderr, exit code 2, no traceback, nothing trained."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import socket
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from command_line import run_here
from latency_tables import smooth
from PIL import Image

SWEEP = """
name: tiny
data: {name: digits}
supernet: {name: repvgg_tiny}
budget: {limits: [0.5]}
strengths: [10]
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run ``pas`` in this process; returns exit code, stdout and stderr."""
    monkeypatch.setenv("PAS_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "sweep.yaml").write_text(SWEEP)

    def invoke(*arguments: str):
        command = [a.replace("SWEEP_FILE", str(tmp_path / "sweep.yaml")) for a in arguments]
        done = run_here(command)
        return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)

    return invoke


@pytest.fixture
def sweep(pas):
    """As ``run``, for sweeps that go on to Ray."""
    pas.file.write_text(SWEEP)

    def invoke(*arguments: str):
        done = pas.here("sweep", str(pas.file), *arguments)
        return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)

    return invoke


@pytest.fixture
def images(tmp_path):
    root = tmp_path / "images"
    for split in ("train", "test"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for i in range(8):
                pixels = np.full((8, 8, 3), 20 * i, np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


def refused(result, *parts: str) -> None:
    assert result.code == 2
    assert result.out == ""
    assert "Traceback" not in result.err
    sentence = [line for line in result.err.splitlines() if line.startswith("pas: ")]
    assert len(sentence) == 1, result.err
    for part in parts:
        assert part in sentence[0]


def test_a_dry_run_shows_the_plan_and_writes_nothing(run, tmp_path):
    result = run("sweep", "SWEEP_FILE", "--dry-run", "--json")
    plan = json.loads(result.out)
    assert result.code == 0
    assert plan["limits"] == {"0.5": 226112}
    assert plan["also"] == {}
    assert plan["num_trials"] == 1
    assert plan["channel_groups"] == 5
    assert plan["searchable_share"] == 1.0
    assert plan["unsupported_ops"] == []
    assert not (tmp_path / "home" / "mlflow.db").exists()
    assert not list((tmp_path / "home").rglob("*.json"))


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("budget.limits=[1.5]", ["limit 1.5", "below", "floor"]),
        ("budget.limits=[1000000]", ["above the supernet's own 452224"]),
        ("budget.limits=[0.0005]", ["limit 0.0005 of macs", "below", "floor"]),
        ("budget.limits=[0]", ["limits has 0"]),
        ("budget.also={num_params: 2}", ["limit 2 of num_params", "below", "floor"]),
        ("width_rules.divisor=64", ["pas: divisor 64", "larger than a layer", "16 channels"]),
        ("width_rules.groups={x*: {divisor: 2}}", ["'x*'", "matches no channel group", "stages."]),
        ("budget.also={flops: 0.5}", ["budget: also is 'flops'", "macs", "latency_ms"]),
        ("budget.resource=flops", ["budget: resource is 'flops'", "macs", "latency_ms"]),
        ("budget.limits=[0.8 ms]", ["budget: ", "'0.8 ms'", "k, M, G"]),
        ("latency.num_threads=0", ["latency.num_threads", "0"]),
        ("latency.threads=2", ["unknown key latency.threads", "num_threads"]),
        ("supernet.name=vgg99", ["vgg99"]),
        ("supernet={name: 'torchvision:resnet19'}", ["supernet: ", "'resnet19'", "resnet18"]),
        ("supernet={name: repvgg_tiny, scope: [stages], pinned: [classifier]}", ["classifier"]),
        ("supernet.options.width=0", ["width", "(0, 16]"]),
        ("supernet={name: 'import:nowhere_to_be_found:f'}", ["supernet: ", "no module"]),
        ("supernet={name: 'torchvision:resnet18', options: {depth: 2}}", ["supernet: ", "'depth'"]),
        ("supernet={name: 'torchvision:vit_b_16'}", ["supernet: "]),
        ("supernet={name: repvgg_tiny, pinned: [nope]}", ["supernet: ", "'nope'"]),
        ("supernet={name: repvgg_tiny, scope: [nope]}", ["supernet: ", "'nope'"]),
        ("supernet={name: repvgg_tiny, weights: no.pt}", ["supernet: ", "no.pt cannot be read"]),
        ("data={name: imagefolder, root: nowhere, image_size: 8}", ["nowhere", "does not exist"]),
        ("data={name: cifar10, root: nowhere}", ["nowhere", "CIFAR-10"]),
        ("task=import:nowhere_to_be_found:T", ["task import:nowhere_to_be_found:T", "no module"]),
        ("task=import:math:sqrt", ["task import:math:sqrt", "no subclass"]),
        ("search.epochs=many", ["search.epochs", "many"]),
        ("resources.cpus=1", ["resources.cpus", "cpus_per_trial"]),
    ],
)
def test_what_cannot_run_is_refused_before_training(run, tmp_path, override, parts):
    refused(run("sweep", "SWEEP_FILE", "--set", override), *parts)
    assert not (tmp_path / "home" / "supernets").exists()


USER_NETS = """
import torch
from torch import nn

class Strange(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.first = nn.Conv2d(in_channels, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.classifier = nn.Linear(8, num_classes)

    def forward(self, x):
        x = torch.cumsum(self.first(x), dim=1)
        return self.classifier(torch.relu(self.second(x)).mean((2, 3)))

def one_class_too_few(num_classes, in_channels):
    return Strange(num_classes - 1, in_channels)

class DrawnAnew(Strange):
    def __init__(self, num_classes, in_channels):
        super().__init__(num_classes, in_channels)
        self.noise = torch.randn(1, in_channels, 8, 8)

    def forward(self, x):
        return super().forward(x + self.noise.to(x.device))

class Counts(Strange):
    def get_extra_state(self):
        return {"step": 3}

    def set_extra_state(self, state):
        pass

def frozen(num_classes, in_channels):
    return Strange(num_classes, in_channels).requires_grad_(False)

def exits():
    raise SystemExit("no licence")

class DependsOnValues(Strange):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)
"""


@pytest.fixture
def user_nets(tmp_path, monkeypatch):
    """Networks of the user's own in the working folder; their module's name."""
    name = "cli_user_nets"
    (tmp_path / f"{name}.py").write_text(USER_NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


def test_what_stays_and_why_is_shown(run, user_nets):
    override = f"supernet={{name: 'import:{user_nets}:Strange', pinned: [second]}}"
    refused(run("sweep", "SWEEP_FILE", "--set", override, "--dry-run"), "supernet: ", "cumsum")
    override = f"supernet={{name: 'import:{user_nets}:Strange'}}"
    dry_run = ("sweep", "SWEEP_FILE", "--set", override, "--set", "budget.limits=[0.445]")
    result = run(*dry_run, "--dry-run", "--json")
    plan = json.loads(result.out)
    assert plan["channel_groups"] == 1
    assert any("cumsum" in op["reason"] for op in plan["unsupported_ops"])
    # first conv 1 -> 8 stays; the rest has a searchable side: (8*8*9*64 + 8*10) of the whole
    whole = 8 * 1 * 9 * 64 + 8 * 8 * 9 * 64 + 80
    assert plan["searchable_share"] == pytest.approx((whole - 8 * 9 * 64) / whole, abs=1e-4)
    assert "cumsum" in run(*dry_run, "--dry-run").out


UNFIT = {
    "one_class_too_few": "each of the 10 classes",
    "DependsOnValues": "control flow",
    "Counts": "_extra_state is a dict",
    "frozen": "all its parameters are frozen",
    "exits": "cannot be built with these options: SystemExit: no licence",
    "DrawnAnew": "noise has other values each time",
}


@pytest.mark.parametrize("name", UNFIT)
def test_networks_that_cannot_be_trained_are_refused(run, user_nets, name):
    override = f"supernet={{name: 'import:{user_nets}:{name}'}}"
    refused(run("sweep", "SWEEP_FILE", "--set", override), "supernet", UNFIT[name])


USER_TASKS = """
from pas_trainer import Classification

class NoData(Classification):
    datasets = ("custom",)

    def open_data(self, config):
        pass

class NoLoss(Classification):
    def loss(self, outputs, targets, recipe):
        return {}["boxes"]
"""


@pytest.mark.parametrize(
    ("name", "data", "parts"),
    [
        ("NoData", "custom", ["NoData: open_data returned a NoneType"]),
        ("NoLoss", "digits", ["NoLoss: loss failed: KeyError", "cli_user_tasks.py, line 12"]),
    ],
)
def test_a_task_of_the_users_own_that_fails_is_told(run, tmp_path, monkeypatch, name, data, parts):
    (tmp_path / "cli_user_tasks.py").write_text(USER_TASKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "cli_user_tasks", raising=False)
    cell = ("SWEEP_FILE", "--budget", "0.5", "--strength", "10")
    sets = ("--set", f"task=import:cli_user_tasks:{name}", "--set", f"data.name={data}")
    result = run("search", *cell, *sets)
    refused(result, *parts)
    assert "goes on" not in result.err


LATENCY = ("--set", "budget={resource: latency_ms, limits: [0.5]}")


@pytest.mark.parametrize(
    ("latency", "parts"),
    [
        ("{table: nowhere.json}", ["latency.table: ", "nowhere.json", "No such file"]),
        ("{table: sweep.yaml}", ["latency.table: ", "sweep.yaml", "no latency table"]),
        ("{table: other.json}", ["latency.table: ", "of another network", "pas latency"]),
        ("{device: tpu}", ["latency: device 'tpu' cannot be used", "pas latency"]),
        ("{device: meta}", ["latency: device is 'meta'", "cpu or cuda"]),
    ],
)
def test_latency_that_cannot_be_known_is_refused(run, tmp_path, latency, parts):
    (tmp_path / "other.json").write_text('{"device": "x", "grids": {}, "factors": {}}')
    refused(run("sweep", "SWEEP_FILE", *LATENCY, "--set", f"latency={latency}"), *parts)
    assert not (tmp_path / "home" / "latency").exists()


def test_a_table_measured_on_the_target_serves_a_sweep(run, tmp_path):
    table = tmp_path / "table.json"
    loose = ("--set", "budget={resource: latency_ms, limits: [0.9]}")
    quick = ("--set", "latency={seconds: 0.2, batch_size: 64}")
    document = json.loads(run("latency", "SWEEP_FILE", *quick, "--out", str(table), "--json").out)
    assert document["device"] == json.loads(table.read_text())["device"]
    smooth(table)
    shutil.rmtree(tmp_path / "home")
    unknown = run("sweep", "SWEEP_FILE", *loose, "--dry-run", "--json")
    assert json.loads(unknown.out)["supernet_latency_ms"] is None
    given = ("--set", "latency={table: table.json, batch_size: 64}")
    planned = run("sweep", "SWEEP_FILE", *loose, *given, "--dry-run", "--json")
    assert planned.code == 0, planned.err
    plan = json.loads(planned.out)
    assert plan["supernet_latency_ms"] > 0
    assert plan["limits"]["0.9"] == pytest.approx(plan["supernet_latency_ms"] * 0.9, abs=1e-4)
    assert not (tmp_path / "home" / "latency").exists()
    tight = ("--set", "budget.limits=['0.001 us']")
    refused(run("sweep", "SWEEP_FILE", *loose, *given, *tight), "0.001 us", "below", "floor")
    refused(run("latency", "SWEEP_FILE", *quick, "--out", str(tmp_path)), "cannot be written")


def test_latency_is_measured_without_ray_or_mlflow(pas, tmp_path):
    pas.file.write_text(SWEEP)
    code = (
        "import sys\n"
        "for name in ('ray', 'mlflow', 'optuna'): sys.modules[name] = None\n"
        "from orchestrator import cli\n"
        f"sys.argv = ['pas', 'latency', {str(pas.file)!r}, '--set', 'latency.seconds=0.2', "
        f"'--out', {str(tmp_path / 'table.json')!r}]\n"
        "cli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=pas.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "table.json").read_text())["grids"]


@pytest.mark.parametrize("limit", ["much", "0.8 ms", "0"])
def test_a_single_search_reads_limits_like_a_sweep_file(run, limit):
    one = ("--budget", limit, "--strength", "1")
    refused(run("search", "SWEEP_FILE", *one), "budget: limits has", limit)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("learning_rate", "NAME=NUMBER"),
        ("learning_rate=fast", "NAME=NUMBER"),
        ("lr=1", "unknown hyper-parameter 'lr'; known: learning_rate"),
        ("learning_rate=-1", "it must stay within"),
    ],
)
def test_a_single_search_takes_known_hyperparameters(run, given, words):
    one = ("--budget", "0.5", "--strength", "1", "--hyperparameter", given)
    refused(run("search", "SWEEP_FILE", *one), "--hyperparameter", words)


def test_weights_that_fit_only_in_part_are_told_before_training(run, tmp_path):
    from safetensors.torch import save_file

    from search_space import build_supernet

    state = build_supernet("repvgg_tiny", 3, 1).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    sets = ["--set", "supernet.weights=w.safetensors", "--set", "pretrain.epochs=0"]
    plan = json.loads(run("sweep", "SWEEP_FILE", *sets, "--dry-run", "--json").out)
    assert plan["left_at_random"] == ["classifier.weight", "classifier.bias"]
    assert plan["supernet_weights"] == str(tmp_path / "w.safetensors")
    sets = [*sets, "--set", "supernet.options.width=0.5"]
    refused(run("sweep", "SWEEP_FILE", *sets), "supernet: ", "do not fit", "stages.0.0")


def test_a_class_folder_without_images_is_refused(run, images):
    (images / "train" / "c").mkdir()
    data = f"data={{name: imagefolder, root: {images}, image_size: 8}}"
    refused(run("sweep", "SWEEP_FILE", "--set", data), "c has no images")


def test_a_server_that_does_not_answer_is_refused_within_seconds(run):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    uri = f"tracking.uri=http://127.0.0.1:{port}"
    refused(run("sweep", "SWEEP_FILE", "--set", uri), "tracking.uri", str(port), "start it")


def test_a_server_that_hangs_is_refused_within_seconds(run):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"tracking.uri=http://127.0.0.1:{silent.getsockname()[1]}"
        refused(run("sweep", "SWEEP_FILE", "--set", uri), "did not answer within 5 s")


def test_a_full_disk_is_refused(run, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _p: usage._replace(free=2**20))
    refused(run("sweep", "SWEEP_FILE"), "has 1 MiB free", "PAS_HOME")


def test_a_home_that_cannot_be_made_is_refused(run, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PAS_HOME", str(tmp_path / "file" / "home"))
    refused(run("sweep", "SWEEP_FILE"), "cannot be created")


def test_a_gpu_that_is_not_there_is_refused(run, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    refused(run("sweep", "SWEEP_FILE", "--set", "device=cuda"), "finds no GPU")


@pytest.mark.slow
def test_more_cpus_than_the_cluster_has_are_refused_at_once(sweep):
    result = sweep("--set", "resources.cpus_per_trial=4096")
    refused(result, "a trial needs 4096 CPUs", "the nodes of the cluster have")


@pytest.mark.slow
def test_an_undecodable_image_stops_the_sweep_resumably(sweep, images):
    broken = images / "train" / "b" / "3.png"
    good = broken.read_bytes()
    broken.write_bytes(b"broken")
    sets = [
        *("--set", f"data={{name: imagefolder, root: {images}, image_size: 8, validation: 0.3}}"),
        *("--set", "pretrain.epochs=1", "--set", "search.epochs=1", "--set", "finetune.epochs=1"),
        *("--set", "optimizer.batch_size=4"),
    ]
    refused(sweep(*sets), str(broken), "run the same command again")
    broken.write_bytes(good)
    result = sweep("--json", *sets)
    assert result.code == 0, result.err
    assert [t["status"] for t in json.loads(result.out)["trials"]] == ["FINISHED"]
    (images / "train" / "a" / "1.png").unlink()  # its trials would be of two data sets
    refused(sweep("--dry-run", *sets), "data.root", "changed since", "another name")


@pytest.mark.slow
def test_a_trial_that_diverges_fails_alone(sweep):
    sets = [
        *("--set", "data.validation=0.2", "--set", "pretrain.epochs=1"),
        *(
            "--set",
            "search.epochs=1",
            "--set",
            "finetune.epochs=1",
            "--set",
            "strengths=[1, 1e300]",
        ),
        *("--set", "optimizer.warmup_epochs=0"),
    ]
    result = sweep("--json", *sets)
    by_strength = {t["strength"]: t for t in json.loads(result.out)["trials"]}
    assert by_strength[1.0]["status"] == "FINISHED"
    assert by_strength[1e300]["status"] == "FAILED"
    assert "loss became" in by_strength[1e300]["error"]
    assert result.code == 1
    assert "1 of 2 trials failed" in result.err


@pytest.mark.parametrize("command", [["compare", "x"], ["pareto", "x"], ["status"], ["ui"]])
def test_an_empty_home_is_told(run, command):
    refused(run(*command), "no sweep has run in home folder")


def test_an_unreadable_option_is_a_usage_error(run):
    result = run("sweep", "SWEEP_FILE", "--no-such-option")
    assert result.code == 2
    assert "--no-such-option" in result.err


def test_the_version_is_told(run):
    told = run("--version")
    assert (told.code, told.out) == (0, f"pas {importlib.metadata.version('pas-orchestrator')}\n")


def test_who_interrupts_a_command_is_answered(run, monkeypatch):
    from orchestrator import lookup

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(lookup, "load_sweep_records", interrupted)
    told = run("pareto", "tiny")
    assert (told.code, told.out, told.err) == (130, "", "interrupted\n")


def test_extending_by_nothing_is_refused(run):
    told = run("extend", "tiny")
    assert told.code == 2
    assert told.err == "pas: name what to add: --trials N, --limit LIMIT or --strength S\n"
