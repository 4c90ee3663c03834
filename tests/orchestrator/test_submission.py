from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from ray._private.runtime_env import packaging

from orchestrator.errors import UserError
from orchestrator.loading import load_sweep
from orchestrator.submission import NEVER_SENT, code_folders, entrypoint, sweep_entrypoint

SWEEP = """
name: tiny
data: {name: digits}
supernet: {name: repvgg_tiny}
budget: {limits: [0.5]}
strengths: [10]
"""
AWKWARD = "'\"$HOME `date` \\ END ü"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP)
    return path


@pytest.fixture
def shell(tmp_path):
    """Run a command as Ray does, where ``pas`` shows its arguments and its standard input."""
    program = tmp_path / "bin" / "pas"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nfor word; do echo "$word"; done\necho --\nexec cat /dev/stdin\n')
    program.chmod(0o755)

    def run(command: str) -> subprocess.CompletedProcess[str]:
        path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["/bin/sh", "-c", command],
            env={"PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def submitted(file, *overrides, smoke=False, options=(), with_code=False):
    return sweep_entrypoint(file, overrides, smoke=smoke, options=options, with_code=with_code)


def test_the_file_reaches_the_cluster_with_its_overrides(file, shell):
    overrides = [f"data.root={yaml.safe_dump(f'/data/{AWKWARD}')}", "strengths=[1, 2]"]
    config, command = submitted(file, *overrides, smoke=True, options=["--new"])
    done = shell(command)
    arguments, text = done.stdout.split("\n--\n", 1)
    assert arguments.split("\n") == ["sweep", "/dev/stdin", "--new", "--address", "auto"]
    (file.parent / "there.yaml").write_text(text)
    there = load_sweep(file.parent / "there.yaml")
    assert there == config
    assert there == load_sweep(file, overrides, smoke=True)
    assert there.data.root == f"/data/{AWKWARD}"
    assert there.sweep_id.startswith("tiny-smoke-")


def test_code_that_travels_is_run_by_name_of_its_package(file):
    _, command = submitted(file, with_code=True)
    assert "exec python -m orchestrator sweep /dev/stdin --address auto <<" in command
    command = entrypoint(["extend", "tiny", "--limit=0.8 ms"], with_code=False)
    assert command == "exec pas extend tiny '--limit=0.8 ms' --address auto"


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("data.root=data", "data.root is 'data', a path on this machine"),
        ("data.root=~/data", "data.root is '~/data', a path on this machine"),
        ("supernet.weights=w.safetensors", "supernet.weights is 'w.safetensors'"),
        ("latency.table=t.json", "give the absolute path that the cluster's nodes see"),
        ("search.epochs=many", "search.epochs"),
    ],
)
def test_what_only_this_machine_knows_is_refused(file, override, part):
    with pytest.raises(UserError, match=f".*{part}"):
        submitted(file, override)


@pytest.mark.parametrize("root", ["/data", "s3://bucket/images"])
def test_what_the_cluster_knows_is_not_looked_for_here(file, root):
    config, _ = submitted(file, f"data={{name: imagefolder, root: '{root}', image_size: 8}}")
    assert config.data.root == root


def test_a_file_too_long_for_a_shell_is_refused(file):
    with pytest.raises(UserError, match="100000 bytes"):
        submitted(file, f"data.root=/{'x' * 100_000}")


def test_no_secrets_travel_with_the_code(tmp_path):
    """As Ray packs a folder; the ignore file above it is not heeded."""
    (tmp_path / ".gitignore").write_text("compose/.env")
    (tmp_path / "deploy" / "compose").mkdir(parents=True)
    for name in ("__init__.py", "compose/.env", "compose/env.example"):
        (tmp_path / "deploy" / name).write_text("password")
    target = tmp_path / "deploy.zip"
    packaging.create_package(
        str(tmp_path / "deploy"), target, include_gitignore=True, excludes=NEVER_SENT
    )
    with zipfile.ZipFile(target) as sent:
        assert {name for name in sent.namelist() if not name.endswith("/")} == {
            "__init__.py",
            "compose/env.example",
        }


@pytest.mark.parametrize("path", ["mynets.py", "mynets/__init__.py"])
def test_the_packages_and_the_users_module_can_be_imported_where_they_travel(
    tmp_path, monkeypatch, path
):
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text("where = 'mine'")
    monkeypatch.chdir(tmp_path)
    folders = [Path(folder) for folder in code_folders("import:mynets:build", "import:mynets:Task")]
    assert [folder.name for folder in folders[:-1]] == [Path(f).name for f in code_folders("vgg")]
    there = tmp_path / "there"  # Ray copies each folder under its name
    for folder in folders:
        shutil.copytree(folder, there / folder.name)
    done = subprocess.run(
        [sys.executable, "-c", "import orchestrator.cli, mynets; print(mynets.where)"],
        env={**os.environ, "PYTHONPATH": str(there)},
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "mine\n"
