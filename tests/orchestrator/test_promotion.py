"""Promotion through gates, with a real registry and a sweep whose two networks are made here."""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from command_line import run_here
from mlflow import MlflowClient
from mlflow.models import Model
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from deploy import candidate, content_hash, save_package
from deploy.promotions import aliases_of
from deploy.registered import check_version
from orchestrator import promotion
from orchestrator.errors import UserError
from orchestrator.home import Home, write_json
from orchestrator.judging import Request
from orchestrator.loading import parse_sweep
from orchestrator.pareto import mark_front
from orchestrator.promotion import Outcome
from orchestrator.records import TrialRecord
from orchestrator.tracking_server import TrackingError
from pas_trainer import Classification, TaskError, build_compact, load_data, reparameterize
from search_space import Architecture, build_supernet, trace_channels

SWEEP = """
name: tiny
data: {name: digits, validation: 0.25}
supernet: {name: repvgg_tiny, options: {width: 0.25}}
budget: {limits: [0.75, 0.5]}
strengths: [10]
"""
ALL = ["stored", "accuracy", "budget", "latency", "parity", "robustness"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _once(tmp_path_factory):
    """A package is exported once, and copied; a sweep is opened once. Each takes a second."""
    kept, export = tmp_path_factory.mktemp("exported"), candidate.save_mlflow_model

    def save(folder, network, architecture, package, images):
        first = kept / content_hash(package)
        if not first.exists():
            export(first, network, architecture, package, images)
        shutil.copytree(first, folder)
        return Model.load(folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidate, "save_mlflow_model", save)
        patch.setattr(promotion, "open_sweep", functools.cache(promotion.open_sweep))
        yield


@dataclass
class Sweep:
    """Two finished trials: ``good`` was trained a little, ``poor`` was not; equal widths."""

    home: Home
    uri: str
    records: list[TrialRecord]

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def folder(self, trial: str) -> Path:
        return self.home.trial("tiny-0", trial)

    def promote(self, trial: str | None, model: str, **asked) -> Outcome:
        request = Request(model_name=model, trial=trial, **asked)
        return promotion.promote(self.home, self.records, request, tracking_uri=self.uri)

    def versions(self, model: str) -> int:
        return len(self.client.search_model_versions(f"name='{model}'"))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Sweep:
    home = Home(tmp_path_factory.mktemp("made"))
    config = parse_sweep(yaml.safe_load(SWEEP), "sweep")
    data = load_data(config.data)
    client = MlflowClient(tracking_uri=home.mlflow_uri, registry_uri=home.mlflow_uri)
    experiment = client.create_experiment("tiny", artifact_location=home.artifacts.as_uri())
    supernet = build_supernet("repvgg_tiny", 10, 1, **config.supernet.options)
    graph = trace_channels(supernet, torch.empty(1, 1, 8, 8))
    architecture = Architecture(
        supernet="repvgg_tiny",
        options=dict(config.supernet.options),
        in_channels=1,
        image_size=8,
        mean=list(data.mean),
        std=list(data.std),
        classes=list(data.classes),
        open_channels={g.name: list(range((g.size + 1) // 2)) for g in graph.groups},
    )
    records = []
    for trial, steps in (("good", 40), ("poor", 0)):
        compact = trained(architecture, data, steps)
        plain = reparameterize(compact)
        save_package(home.trial("tiny-0", trial), architecture, plain, compact)
        records.append(
            TrialRecord(
                trial_id=trial,
                sweep_id="tiny-0",
                status="FINISHED",
                budget=0.75,
                strength=10,
                number=0,
                macs=1,  # wrong: the network is counted anew
                macs_ratio=0.5,
                score=Classification().evaluate(plain, data.validation, data, CPU)["accuracy"],
                widths=architecture.widths,
                content_hash=content_hash(home.trial("tiny-0", trial)),
                run_id=client.create_run(experiment).info.run_id,
            )
        )
    document = {"config": config.model_dump(mode="json"), "plan": {}, "tracking_uri": ""}
    write_json(home.sweep("tiny-0") / "sweep.json", document)
    records.append(dataclasses.replace(records[1], trial_id="control", control="uniform"))
    records.append(dataclasses.replace(records[1], trial_id="pruned", status="PRUNED"))
    return Sweep(home, home.mlflow_uri, mark_front(records))


def trained(architecture: Architecture, data, steps: int) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_compact(architecture, deploy=False).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for step, (images, labels) in zip(range(steps), many_batches(data), strict=False):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / steps)
        logits = network((images.float() / 255 - data.mean[0]) / data.std[0])
        optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()
        optimizer.step()
    return network.eval()


def many_batches(data):
    for epoch in range(9):
        yield from data.train.train_batches(64, epoch)


@pytest.fixture
def sweep(made, tmp_path) -> Sweep:
    """The same sweep with files of its own, to be spoiled; the registry is shared."""
    home = Home(tmp_path / "home")
    shutil.copytree(made.home.sweep("tiny-0"), home.sweep("tiny-0"))
    return dataclasses.replace(made, home=home)


def test_gates_in_turn(made):
    """One model's life: a first champion, a worse and a too slow rival, a challenger, a move."""
    first = made.promote("poor", "life", why="there was none")
    assert [gate.name for gate in first.gates] == ALL
    assert (first.refused, first.promoted.version, first.promoted.in_force) == ([], 1, True)
    assert "there is no champion" in first.gates[1].sentence

    slow = made.promote("good", "life", max_latency_ms=1e-6)
    assert slow.refused == ["latency"]
    tight = made.promote(None, "life", limit=0.1)  # by the record it costs one MAC
    assert (tight.record.trial_id, tight.refused) == ("good", ["budget"])
    assert tight.gates[2].measured > tight.gates[2].required
    dry = made.promote("good", "life", dry_run=True)
    assert (dry.refused, dry.promoted) == ([], None)
    assert (made.versions("life"), aliases_of(made.client, "life")) == (1, {"champion": 1})

    better = made.promote(None, "life", limit=1.0, why="better")
    assert (better.record.trial_id, better.promoted.version) == ("good", 2)
    assert better.gates[1].required == made.records[1].score

    worse = made.promote("poor", "life")
    assert worse.refused == ["accuracy"]
    assert f"(version 2) has {made.records[0].score:.4f}" in worse.gates[1].sentence
    assert (made.versions("life"), aliases_of(made.client, "life")) == (2, {"champion": 2})

    challenger = made.promote("poor", "life", alias="challenger")
    assert (challenger.refused, challenger.promoted.version) == ([], 1)  # no second version
    assert aliases_of(made.client, "life") == {"champion": 2, "challenger": 1}
    tolerated = made.promote("poor", "life", tolerance=1.0, worst_score=0.99)
    assert tolerated.refused == ["accuracy"]
    assert made.promote("poor", "life", tolerance=1.0).promoted.version == 1
    assert aliases_of(made.client, "life") == {"champion": 1, "challenger": 1}

    version = made.client.get_model_version("life", "2")
    assert version.tags["pas.gate.parity"].startswith("passed: logits")
    assert version.tags["pas.gate.latency"].startswith("reported: ")
    assert 0 <= float(version.tags["pas.parity_error"]) < 1e-5
    assert better.promoted.model_uri == "models:/life/2"
    assert "| data | digits, 360 validation images |" in version.description
    assert "`good`" in version.description
    check_version(made.client, "life", 1)
    check_the_commands(made)


def check_the_commands(made: Sweep) -> None:
    """History and rollback of that life, as the command line has them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAS_HOME", str(made.home.root))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        found = pas("history", "life", "--json")
        moves = [(m["alias"], m["from_version"], m["to_version"]) for m in found.json["moves"]]
        assert moves == [
            *[("champion", None, 1), ("champion", 1, 2), ("challenger", None, 1)],
            ("champion", 2, 1),
        ]
        assert [m["why"] for m in found.json["moves"]] == ["there was none", "better", "", ""]
        states = [m["state"] for m in found.json["moves"]]
        assert states == ["past", "past", "in force", "in force"]
        assert found.json["moves"][1]["accuracy"] == made.records[0].score
        assert list(found.json["moves"][1]["gates"]) == ALL
        assert pas("rollback", "life", "--why", "on reflection", "--json").json["to_version"] == 2
        assert pas("rollback", "life", "--json").json["to_version"] == 1
        assert "no version before 1" in pas("rollback", "life").err
        table = pas("history", "life").out
        assert "reflection" in table
        assert "★" in table
        made.client.set_registered_model_alias("life", "champion", "2")
        said = pas("history", "life")
        assert "points to version 2, though its last move was to version 1" in said.err
        for arguments, sentence in (
            (("history", "nobody"), "no registered model 'nobody'"),
            (("rollback", "life", "--alias", "prod"), "alias 'prod' of model 'life' was never"),
            (("rollback", "life", "--to", "9"), "never pointed to version 9"),
        ):
            refused = pas(*arguments)
            assert (refused.code, refused.out) == (2, "")
            assert refused.err.startswith("pas: ")
            assert sentence in refused.err


def pas(*arguments: str) -> SimpleNamespace:
    """Run a command in this process, on the home folder of the environment."""
    done = run_here(arguments)
    found = SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)
    if "--json" in arguments and found.code == 0:
        found.json = json.loads(found.out)
    return found


def flip_last_byte(folder: Path) -> None:
    """The lowest bits of one weight: no accuracy shows it."""
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-4] ^= 1
    path.write_bytes(bytes(content))


def spoil_a_weight(folder: Path) -> None:
    path = folder / "weights.safetensors"
    weights = load_file(path)
    weights["classifier.bias"][3] = 1e4
    save_file(weights, path)


def truncate(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def swap(folder: Path) -> None:
    for name in ("weights.safetensors", "training_weights.safetensors"):
        shutil.copy(folder.parent / "poor" / name, folder / name)


def other_images(folder: Path) -> None:
    path = folder / "architecture.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_size": 16}))


@pytest.mark.parametrize(
    ("spoil", "hashed", "refused"),
    [
        (flip_last_byte, True, ["stored"]),
        (spoil_a_weight, False, ["stored", "accuracy", "parity"]),
        (truncate, False, ["stored"]),
        (swap, False, ["stored"]),
        (other_images, False, ["stored"]),
    ],
)
def test_files_that_are_not_the_trials_are_refused(sweep, spoil, hashed, refused):
    """Also of trials recorded before there were hashes, as far as accuracy tells."""
    spoil(sweep.folder("good"))
    if not hashed:
        sweep.records = [dataclasses.replace(r, content_hash=None) for r in sweep.records]
    outcome = sweep.promote("good", "spoiled", worst_score=0.5 if len(refused) > 1 else None)
    assert outcome.refused == refused
    assert len(outcome.gates) == (1 if spoil in {truncate, other_images} else 6)
    assert sweep.versions("spoiled") == 0


def test_what_cannot_be_promoted_is_told(sweep):
    def refused(sentence: str, trial: str | None = "good", **asked) -> None:
        with pytest.raises(UserError, match=sentence):
            sweep.promote(trial, **{"model": "told", **asked})

    refused("--budget LIMIT, or --trial TRIAL_ID", trial=None)
    refused("no such trial", trial="nobody")
    refused("is a control, which is never promoted", trial="control")
    refused("is PRUNED; only FINISHED", trial="pruned")
    refused("'latest'", alias="latest")
    refused("'a/b'", model="a/b")
    (sweep.folder("good") / "training_weights.safetensors").unlink()
    refused(r"training_weights\.safetensors of trial good is not kept")
    assert sweep.versions("told") == 0


def test_the_champion_is_measured_from_its_files_if_it_is_of_the_same_data(made):
    """What its tags say of its accuracy does not count."""
    assert made.promote("good", "held").promoted.version == 1
    own = made.client.get_model_version("held", "1").tags["pas.data"]
    made.client.set_model_version_tag("held", "1", "pas.data", "others")
    outcome = made.promote("poor", "held", dry_run=True)
    assert (outcome.refused, outcome.gates[1].required) == ([], None)
    assert "(version 1), which was trained on other data" in outcome.gates[1].sentence
    made.client.set_model_version_tag("held", "1", "pas.data", own)
    made.client.set_model_version_tag("held", "1", "pas.accuracy", "0.0")
    assert made.promote("poor", "held", dry_run=True).refused == ["accuracy"]
    location = made.client.get_model_version_download_uri("held", "1")
    weights = Path(location.removeprefix("file:")) / "extra_files" / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # it would load, and be measured
    with pytest.raises(UserError, match="are not those that were promoted"):
        made.promote("poor", "held")
    truncate(Path(location.removeprefix("file:")) / "extra_files")
    with pytest.raises(UserError, match=r"\(version 1\) of model 'held' cannot be compared"):
        made.promote("poor", "held")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": "import:evil:Task"}, "which is for import:evil:Task"),
        ({"classes": list("ten digits")}, "which has other classes"),
    ],
)
def test_a_champion_that_cannot_be_compared_with_is_not_loaded(made, change, words):
    model = "other" + next(iter(change))
    assert made.promote("good", model).promoted.version == 1
    location = made.client.get_model_version_download_uri(model, "1")
    path = Path(location.removeprefix("file:")) / "extra_files" / "architecture.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    outcome = made.promote("poor", model, dry_run=True)
    assert (outcome.refused, outcome.gates[1].required) == ([], None)
    assert f"not compared with the champion (version 1), {words}" in outcome.gates[1].sentence


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"tolerance": math.inf}, "--tolerance is inf; it must be a finite number"),
        ({"worst_score": math.nan}, "it must be a finite number"),
        ({"worst_score": 1.5}, r"--worst-score \(--min-accuracy\) is 1.5; accuracy is in 0..1"),
    ],
)
def test_bounds_that_mean_nothing_are_refused(made, asked, words):
    with pytest.raises(UserError, match=words):
        made.promote("good", "bounds", **asked)


def test_a_champion_that_changes_during_a_promotion_is_compared_anew(made, monkeypatch):
    """Another promotion ends between the gates and the move."""
    register = promotion.register_candidate

    def slow(client, candidate, model, **others):
        monkeypatch.setattr(promotion, "register_candidate", register)
        assert made.promote("good", "raced").promoted.in_force
        return register(client, candidate, model, **others)

    monkeypatch.setattr(promotion, "register_candidate", slow)
    outcome = made.promote("poor", "raced")
    assert outcome.refused == ["accuracy"]
    assert made.client.get_model_version_by_alias("raced", "champion").run_id == (
        made.records[0].run_id
    )


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/a/model.pt2"), UserError, "/a/model"),
        (ConnectionError("refused"), TrackingError, "the registry: "),
        (TaskError("task x, judge: no figures"), UserError, "^task x, judge"),
    ],
)
def test_what_goes_wrong_is_told_by_whose_fault_it_is(error, kind, words):
    with pytest.raises(kind, match=words), promotion.one_sentence("http://127.0.0.1:1"):
        raise error
