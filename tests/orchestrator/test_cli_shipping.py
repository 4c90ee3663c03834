"""Bad input of the commands that carry a model out of the registry: one sentence, exit code 2."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from command_line import run_here
from exported import fake_export, small_package
from mlflow import MlflowClient
from PIL import Image

from deploy import CONTENT_HASH_TAG, content_hash
from deploy.registered import TASK_TAG
from orchestrator.cli_shipping import told
from orchestrator.errors import UserError
from pas_trainer import TaskError


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run ``pas`` in this process, in an empty folder with a home of its own."""
    monkeypatch.setenv("PAS_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str):
        done = run_here(arguments)
        return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)

    return invoke


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("export m --out o", "no sweep has run in home folder"),
        ("export m --out o --format pt2 --int8", "add --format onnx"),
        ("predict m nowhere.png", "nowhere.png does not exist"),
        ("predict m . --json --csv", "--json and --csv exclude each other"),
        ("predict ./m fake/a.bin", "./m is not a folder that pas export or pas fetch has written"),
        ("predict altered fake/a.bin", "altered also holds 'more'"),
        ("publish fake http://host/x", "write s3://bucket/prefix"),
        ("fetch s3://key:secret@bucket/x --out o", "must not hold credentials"),
    ],
)
def test_bad_input_is_told_in_one_sentence(run, tmp_path, command, words) -> None:
    fake_export(tmp_path / "fake")
    fake_export(tmp_path / "altered")
    (tmp_path / "altered" / "more").write_text("")
    before = sorted(tmp_path.rglob("*"))
    done = run(*command.split())
    assert done.code == 2
    assert words in done.err
    assert "Traceback" not in done.err
    assert "secret" not in done.err
    assert done.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_a_task_of_the_users_own_that_fails_is_told() -> None:
    with pytest.raises(UserError, match="task x, plain: no answers"), told("exported"):
        raise TaskError("task x, plain: no answers")


def test_a_missing_bucket_and_a_missing_version_are_told(run, object_store, tmp_path) -> None:
    fake_export(tmp_path / "fake")
    missing = run("publish", "fake", "s3://no-such-bucket/x")
    assert (missing.code, "there is no bucket no-such-bucket" in missing.err) == (2, True)
    uri = object_store.upload({})
    assert run("publish", "fake", uri).code == 0
    odd = run("fetch", uri, "--out", "o", "--version", "9")
    assert (odd.code, "no version 9; there are: 3" in odd.err) == (2, True)
    assert run("fetch", uri, "--out", "o").code == 0


@pytest.mark.parametrize("command", ["export m --out o", "predict m a.png", "publish m {store}"])
def test_no_code_is_run_that_a_strangers_package_names(run, tmp_path, object_store, command):
    """Whoever can write to a registry could name any function that is installed here."""
    (tmp_path / "evil.py").write_text("import pathlib\npathlib.Path('executed').touch()\n")
    package = small_package(tmp_path / "files" / "extra_files")
    path = package / "architecture.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"task": "import:evil:Task"}))
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.create_registered_model("m")
    tags = {CONTENT_HASH_TAG: content_hash(package), TASK_TAG: "import:evil:Task"}
    client.create_model_version("m", source=(tmp_path / "files").as_uri(), tags=tags)
    client.set_registered_model_alias("m", "champion", "1")
    arguments = command.format(store=object_store.upload({})).split()
    done = run(*arguments, "--tracking-uri", uri, *(["--out", "o"] if "predict" in command else []))
    assert done.code == 2, done.err
    assert "names the task import:evil:Task, whose code would be run" in done.err
    assert not (tmp_path / "executed").exists()
