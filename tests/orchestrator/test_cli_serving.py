"""What keeps ``pas serve`` from starting: one sentence, exit code 2, before Ray is started."""

from __future__ import annotations

import shutil
import socket
import sys
from types import SimpleNamespace

import pytest
from serving import exported_folder

from deploy.manifest import read_manifest
from orchestrator import cli, serving
from orchestrator.serving import is_loopback
from orchestrator.serving_source import Source, pointer_file
from orchestrator.wanted import Wanted


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run ``pas serve`` in this process, in an empty folder with a home of its own."""
    monkeypatch.setenv("PAS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "500")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("PAS_SERVE_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str):
        monkeypatch.setattr(sys, "argv", ["pas", "serve", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return SimpleNamespace(code=caught.value.code, out=captured.out, err=captured.err)

    return invoke


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return exported_folder(tmp_path_factory.mktemp("serving"))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("m", "no sweep has run in home folder"),
        ("./m", "./m is not a folder that pas export or pas fetch has written"),
        ("m --tracking-uri sqlite:///empty.db", "the registry has no model 'm'"),
        ("m --host 192.0.2.77", "cannot listen on 192.0.2.77 port 8000"),
        ("m --address http://127.0.0.1:8265", "takes jobs"),
        ("m --address ray://127.0.0.1:1", "takes jobs"),
        ("m --max-body-mib inf", "--max-body-mib"),
        ("m --timeout inf", "--timeout"),
        ("m --poll 1e400", "--poll"),
        ("m --address 127.0.0.1:1", "nothing answers at 127.0.0.1 port 1"),
        ("m --tracking-uri http://127.0.0.1:1", "cannot be reached"),
    ],
)
def test_bad_input_is_told_in_one_sentence(run, tmp_path, command, words) -> None:
    done = run(*command.split())
    assert (done.code, done.out) == (2, "")
    assert words in done.err
    assert "Traceback" not in done.err
    assert not list(tmp_path.glob("home/serving-*"))


def test_a_port_that_is_taken_is_told(run, export) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(str(export), "--port", str(port))
    assert done.code == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in done.err


def test_altered_files_are_told(run, export, tmp_path) -> None:
    shutil.copytree(export, tmp_path / "altered")
    (tmp_path / "altered" / "more").write_text("")
    done = run(str(tmp_path / "altered"))
    assert done.code == 2
    assert "also holds 'more'" in done.err


def test_what_is_not_installed_is_told(run, export, monkeypatch) -> None:
    monkeypatch.setattr(serving, "NEEDED", ("ray", "no_such_package"))
    done = run(str(export))
    assert done.code == 2
    assert "needs no_such_package" in done.err
    assert "pip install 'pas-orchestrator[serve]'" in done.err


def test_a_host_that_others_reach_is_warned_of_unless_there_is_a_token(run, monkeypatch) -> None:
    assert "set PAS_SERVE_TOKEN" in run("m", "--host", "0.0.0.0").err
    monkeypatch.setenv("PAS_SERVE_TOKEN", " \n")
    assert "set PAS_SERVE_TOKEN" in run("m", "--host", "0.0.0.0").err
    monkeypatch.setenv("PAS_SERVE_TOKEN", "a-token\n")
    assert serving.token_of_environment() == "a-token"
    done = run("m", "--host", "0.0.0.0")
    assert "warning" not in done.err
    assert "a-token" not in done.err


def test_one_body_of_the_largest_size_can_be_held(run, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(serving, "serve_model", lambda _, options, **__: asked.append(options))
    for mib in ("1", "300"):
        assert run("m", "--max-body-mib", mib).code == 0
    small, large = (options.limits for options in asked)
    assert (small.body_bytes, small.held_bytes) == (1 << 20, 256 << 20)
    assert large.held_bytes >= large.body_bytes == 300 << 20


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("example.org", False),
    ],
)
def test_hosts_that_only_this_machine_reaches(host, inside) -> None:
    assert is_loopback(host) == inside


def test_an_exported_folder_is_served_where_it_lies(export, tmp_path) -> None:
    source = Source(Wanted(model=str(export)), None, tmp_path)
    assert not source.follows
    source.refresh()
    assert source.manifest == read_manifest(export)
    assert source.pointer.engine == "torch"  # it has no ONNX network
    assert pointer_file(tmp_path).read_text() == source.pointer.to_json()
