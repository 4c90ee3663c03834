from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from promoted import load_promoted, promote_package
from torch import Tensor

from deploy import (
    CONTENT_HASH_TAG,
    PackageError,
    content_hash,
    deployed_network,
    load_package,
)
from deploy.logged_models import EXTERNAL_TAG
from deploy.moves import DONE_TAG, MOVE_TAG

# Plain MLflow in a process of its own: our packages are not importable, a GPU seems to be there.
CONSUMER = """
import importlib.abc, json, sys
OURS = {"search_space", "pas_trainer", "deploy", "orchestrator"}
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in OURS:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocker())
try:
    import search_space
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("our packages are importable")
import mlflow, numpy as np, torch
torch.cuda.is_available = lambda: True
model = mlflow.pyfunc.load_model(sys.argv[1])
images = np.load(sys.argv[2])
batches = {n: model.predict(images[:n]) for n in (1, 2, 7, 8, 10, 64)}
assert all(np.allclose(batches[n], batches[64][:n], atol=1e-5) for n in batches)
assert not OURS & set(sys.modules)
np.save(sys.argv[3], batches[64])
"""


def start_run(uri: str, artifacts: Path | None = None) -> Run:
    """A trial's run as a sweep leaves it: finished."""
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    location = str(artifacts) if artifacts else None
    experiment = client.get_experiment_by_name("sweep")
    experiment_id = (
        experiment.experiment_id
        if experiment
        else client.create_experiment("sweep", artifact_location=location)
    )
    run = client.create_run(experiment_id)
    client.set_terminated(run.info.run_id, "FINISHED")
    return client.get_run(run.info.run_id)


@pytest.fixture
def run(tracking_uri: str, tmp_path: Path) -> Run:
    return start_run(tracking_uri, tmp_path / "artifacts")


def promote(uri: str | MlflowClient, package: Path, run: Run, images: Tensor) -> int:
    return promote_package(
        uri,
        folder=package,
        run_id=run.info.run_id,
        images=images,
        tags={"budget": "macs 0.5"},
    )


def predict_elsewhere(uri: str, images: Tensor, folder: Path) -> np.ndarray:
    """Logits from a process without our packages, for the version behind the alias."""
    np.save(folder / "images.npy", images.numpy())
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }
    arguments = ["models:/digits@champion", folder / "images.npy", folder / "logits.npy"]
    done = subprocess.run(
        [sys.executable, "-I", "-c", CONSUMER, *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return np.asarray(np.load(folder / "logits.npy"))


def expected_logits(package: Path, images: Tensor) -> Tensor:
    classifier = deployed_network(*load_package(package))
    with torch.inference_mode():
        return classifier(images)


def assert_run_untouched(client: MlflowClient, before: Run) -> None:
    after = client.get_run(before.info.run_id)
    assert dict(after.info) == dict(before.info)
    assert after.data.tags == before.data.tags
    runs = client.search_runs([before.info.experiment_id])
    assert {r.info.status for r in runs} == {"FINISHED"}
    assert len(runs) == 1
    assert mlflow.active_run() is None


def test_promoted_model_runs_on_plain_mlflow(
    tracking_uri: str, package: Path, run: Run, images: Tensor, tmp_path: Path
) -> None:
    global_uri = mlflow.get_tracking_uri()
    assert promote(tracking_uri, package, run, images) == 1
    client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    version = client.get_model_version_by_alias("digits", "champion")
    assert (version.run_id, version.status) == (run.info.run_id, "READY")
    own = {k: v for k, v in version.tags.items() if not k.startswith((MOVE_TAG, DONE_TAG))}
    assert len(own) == len(version.tags) - 2
    assert own == {
        "budget": "macs 0.5",
        CONTENT_HASH_TAG: content_hash(package),
        **{"pas.task": "classification", "pas.metric": "accuracy", "pas.form": "program"},
    }
    assert_run_untouched(client, run)
    assert mlflow.get_tracking_uri() == global_uri

    logits = predict_elsewhere(tracking_uri, images[:64], tmp_path)
    np.testing.assert_allclose(logits, expected_logits(package, images[:64]), atol=1e-5)


def test_stored_files_are_complete_and_pinned(
    tracking_uri: str, package: Path, run: Run, images: Tensor
) -> None:
    promote(tracking_uri, package, run, images)
    client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    folder = Path(client.get_model_version_download_uri("digits", "1"))
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert files == {
        "MLmodel",
        "conda.yaml",
        "data/model.pt2",
        "extra_files/architecture.json",
        "extra_files/weights.safetensors",
        "input_example.json",
        "python_env.yaml",
        "requirements.txt",
        "serving_input_example.json",
    }
    for name in ("architecture.json", "weights.safetensors"):
        assert (folder / "extra_files" / name).read_bytes() == (package / name).read_bytes()
    with zipfile.ZipFile(folder / "data" / "model.pt2") as archive:
        records = [archive.read(name) for name in archive.namelist()]
    assert not any(b".py" in record for record in records), "names source files of this machine"
    requirements = (folder / "requirements.txt").read_text().split()
    assert [line.partition("==")[0] for line in requirements] == ["mlflow", "numpy", "torch"]
    assert all("==" in line and "+" not in line for line in requirements)
    model = mlflow.models.Model.load(str(folder))
    assert model.run_id == run.info.run_id
    assert client.get_logged_model(model.model_id).source_run_id == run.info.run_id
    assert client.get_logged_model(model.model_id).status == "READY"
    assert model.signature.inputs.inputs[0].shape == (-1, 1, 8, 8)
    assert model.signature.outputs.inputs[0].shape == (-1, 10)
    example = np.array(json.loads((folder / "input_example.json").read_text()), np.float32)
    np.testing.assert_array_equal(example, images[:2])


def test_promoting_again_makes_no_second_version(
    tracking_uri: str, package: Path, run: Run, images: Tensor
) -> None:
    client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    first = promote(client, package, run, images)
    (model,) = client.search_logged_models([run.info.experiment_id])
    client.delete_logged_model_tag(model.model_id, "mlflow.modelVersions")  # it broke off there
    again = promote_package(
        client,
        folder=package,
        alias="challenger",
        run_id=run.info.run_id,
        images=images,
        tags={"note": "second look"},
    )
    assert again == first
    stored = Path(client.get_model_version_download_uri("digits", "1").removeprefix("file:"))
    weights = stored / "extra_files" / "weights.safetensors"
    whole = weights.read_bytes()
    for harm in (lambda: weights.write_bytes(whole[:-1] + b"?"), weights.unlink):
        harm()
        assert promote(client, package, run, images) == first
        assert weights.read_bytes() == whole
    other = promote_package(
        client,
        folder=package,
        model_name="numbers",
        run_id=run.info.run_id,
        images=images,
    )
    assert other == 1
    (version,) = client.search_model_versions("name = 'digits'")
    assert version.tags["note"] == "second look"
    assert version.tags["budget"] == "macs 0.5"
    (model,) = client.search_logged_models([run.info.experiment_id])
    versions = json.loads(model.tags["mlflow.modelVersions"])
    assert [(v["name"], int(v["version"])) for v in versions] == [("digits", 1), ("numbers", 1)]
    assert client.get_model_version("numbers", "1").source == version.source
    aliases = client.get_registered_model("digits").aliases
    assert aliases == {"champion": 1, "challenger": 1}
    assert_run_untouched(client, run)


def test_another_run_is_another_version(
    tracking_uri: str, package: Path, run: Run, images: Tensor
) -> None:
    promote(tracking_uri, package, run, images[:1])
    assert promote(tracking_uri, package, start_run(tracking_uri), images[:3]) == 2
    assert load_promoted(tracking_uri).version == 2


def test_a_users_own_network_is_rebuilt_from_the_registry_only_when_allowed(
    tracking_uri: str,
    package: Path,
    run: Run,
    images: Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "my_promoted_net.py").write_text(
        "from search_space import build_supernet\n"
        "def net(num_classes, in_channels):\n"
        "    return build_supernet('repvgg_tiny', num_classes, in_channels)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = package / "architecture.json"
    document = {**json.loads(path.read_text()), "supernet": "import:my_promoted_net:net"}
    path.write_text(json.dumps(document))
    arguments = {"folder": package, "run_id": run.info.run_id, "images": images}
    with pytest.raises(PackageError, match="allow_import=True"):
        promote_package(tracking_uri, **arguments)
    promote_package(tracking_uri, **arguments, allow_import=True)
    with pytest.raises(PackageError, match="allow_import=True"):
        load_promoted(tracking_uri)
    loaded = load_promoted(tracking_uri, allow_import=True)
    _, network = load_package(package, allow_import=True)
    expected = deployed_network(loaded.architecture, network)(images)
    assert torch.equal(loaded.network(images), expected)


def test_a_failed_upload_leaves_the_alias_and_can_be_repeated(
    tracking_uri: str,
    package: Path,
    run: Run,
    images: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    promote(client, package, start_run(tracking_uri), images)

    def broken(self: MlflowClient, model_id: str, local_dir: str) -> None:
        raise OSError("connection lost")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_model_artifacts", broken)
        with pytest.raises(OSError, match="connection lost"):
            promote(client, package, run, images)
    assert client.get_registered_model("digits").aliases == {"champion": 1}
    models = client.search_logged_models([run.info.experiment_id])
    assert [model.tags.get(EXTERNAL_TAG) for model in models] == ["true", None]  # the latest first
    assert promote(client, package, run, images) == 2
    models = client.search_logged_models([run.info.experiment_id])
    assert [model.tags.get(EXTERNAL_TAG) for model in models] == [None, None]


def test_an_unknown_run_registers_nothing(tracking_uri: str, package: Path, images: Tensor) -> None:
    with pytest.raises(MlflowException, match="not found"):
        promote_package(tracking_uri, folder=package, run_id="0" * 32, images=images)
    client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    assert client.search_registered_models() == []


@pytest.fixture
def server_uri(tmp_path: Path, sqlite_template: Path) -> Iterator[str]:
    """A real MLflow server on loopback that proxies artifacts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    database = tmp_path / "server.db"
    database.write_bytes(sqlite_template.read_bytes())
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{database}"]
    command += ["--artifacts-destination", str(tmp_path / "server artifacts")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    uri = f"http://127.0.0.1:{port}"
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            wait_until_healthy(uri, server, tmp_path / "server.log")
            yield uri
        finally:
            server.terminate()
            server.wait(timeout=30)


def wait_until_healthy(uri: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=2).close()  # noqa: S310
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"server did not start: {log.read_text()}")


def test_through_a_real_server(
    server_uri: str, package: Path, images: Tensor, tmp_path: Path
) -> None:
    run = start_run(server_uri)
    first = promote(server_uri, package, run, images)
    assert promote(server_uri, package, run, images) == first
    client = MlflowClient(tracking_uri=server_uri, registry_uri=server_uri)
    assert len(client.search_model_versions("name = 'digits'")) == 1
    assert_run_untouched(client, run)

    loaded = load_promoted(server_uri)
    assert loaded.architecture.classes == [str(digit) for digit in range(10)]
    expected = expected_logits(package, images[:64])
    with torch.inference_mode():
        assert torch.equal(loaded.network(images[:64]), expected)
    logits = predict_elsewhere(server_uri, images[:64], tmp_path)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
