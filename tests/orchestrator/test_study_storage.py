"""A database that PAS_OPTUNA_URL names is checked before anything is planned or trained."""

from __future__ import annotations

import sys

import pytest

from orchestrator.errors import UserError
from orchestrator.study_storage import check_driver

EXTRA = "pip install 'pas-orchestrator[postgres]'"


@pytest.mark.parametrize(
    ("url", "missing", "words"),
    [
        ("postgresql+psycopg2://u:secret@h/d", "psycopg2", EXTRA),
        (
            "postgresql+pg8000://u:secret@h/d",
            "pg8000",
            f"pip install pg8000, or {EXTRA} and write postgresql+psycopg2://",
        ),
        ("mysql+pymysql://u:secret@h/d", "pymysql", "pip install pymysql"),
    ],
)
def test_a_missing_driver_is_named_with_what_to_install(monkeypatch, url, missing, words) -> None:
    monkeypatch.setitem(sys.modules, missing, None)  # as if it were not installed
    with pytest.raises(UserError) as caught:
        check_driver(url)
    told = str(caught.value)
    assert f"begins with {url.partition(':')[0]}://" in told
    assert f"driver {missing} is not installed; {words}" in told
    assert "secret" not in told


def test_postgresql_without_a_named_driver_tells_the_extra(monkeypatch) -> None:
    for module in ("psycopg", "psycopg2"):  # which of them is meant depends on SQLAlchemy's version
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"is not installed; .*pas-orchestrator\[postgres\]"):
        check_driver("postgresql://u:secret@h/d")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("u:secret@h", "is no address of a database; write it like postgresql+psycopg2://"),
        ("postgresql://u:secret@h:port/d", "is no address of a database"),
        ("oracle+nodriver://u:secret@h/d", "begins with oracle+nodriver://, which SQLAlchemy"),
    ],
)
def test_an_address_that_is_none_is_told_without_its_password(url, words) -> None:
    with pytest.raises(UserError) as caught:
        check_driver(url)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


def test_what_is_installed_is_taken() -> None:
    check_driver("sqlite:////nowhere/optuna.db")
    pytest.importorskip("psycopg2")
    check_driver("postgresql+psycopg2://u:secret@127.0.0.1:1/d")  # nobody is asked


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_a_sweep_is_refused_before_it_is_planned(pas, monkeypatch, options) -> None:
    monkeypatch.setenv("PAS_OPTUNA_URL", "postgresql+pg8000://u:secret@h/d")
    monkeypatch.setitem(sys.modules, "pg8000", None)
    done = pas.here("sweep", str(pas.file), *options)
    assert done.returncode == 2
    assert "driver pg8000 is not installed" in done.stderr
    assert "goes on" not in done.stderr
    assert "secret" not in done.stderr
    assert {path.name for path in pas.home.glob("*")} <= {"mlflow.db"}  # of ``here``
