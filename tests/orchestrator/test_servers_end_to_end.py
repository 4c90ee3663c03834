"""A sweep whose MLflow server asks for a password and keeps runs and users in PostgreSQL.

Optuna's studies are in PostgreSQL too, and its files in an object store.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pgserver
import psycopg2
import pytest
from tracking_servers import TrackingServer
from werkzeug.security import generate_password_hash

pytestmark = pytest.mark.slow

ADMIN, PASSWORD, STORE_SECRET = "admin", "correct-horse-battery-9", "staple-of-the-store-7"


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """Make a database on one PostgreSQL; returns its URL."""
    server = pgserver.get_server(tmp_path_factory.mktemp("postgres"))

    def create(name: str) -> str:
        server.psql(f"create database {name}")
        return server.get_uri(name).replace("postgresql://", "postgresql+psycopg2://")

    yield create
    server.cleanup()


@pytest.fixture
def server(database, tmp_path):
    """Of MLflow, with one user, whose password is checked with each request: quickly, here."""
    users = database("users")
    config = tmp_path / "auth.ini"
    config.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {users}\n"
        f"admin_username = {ADMIN}\nadmin_password = {PASSWORD}\n"
    )
    server = TrackingServer(
        tmp_path,
        database("runs"),
        ("--app-name=basic-auth",),
        {"MLFLOW_AUTH_CONFIG_PATH": str(config), "MLFLOW_FLASK_SERVER_SECRET_KEY": "secret-key"},
    )
    server.start()
    hash_cheaply(users)
    yield server
    server.kill()


def hash_cheaply(database_url: str) -> None:
    """Keep the hash of the password in a form that does not take a fifth of a second to check."""
    cheap = generate_password_hash(PASSWORD, "pbkdf2:sha256:1")
    with connected(database_url) as cursor:
        cursor.execute("update users set password_hash = %s", [cheap])


@contextlib.contextmanager
def connected(database_url: str) -> Iterator[Any]:
    with (
        psycopg2.connect(database_url.replace("+psycopg2", "")) as connection,
        connection.cursor() as cursor,
    ):
        yield cursor


def test_a_sweep_on_postgresql_and_s3_behind_a_password(
    pas, server, database, object_store, monkeypatch
):
    studies = database("studies")
    uri = object_store.upload({}, "team/sweeps")
    sweep = ("sweep", str(pas.file), "--set", f"tracking.uri={server.url}")
    sweep += ("--set", f"storage.uri={uri}", "--set")
    monkeypatch.setenv("PAS_OPTUNA_URL", studies)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", STORE_SECRET)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    refused = pas(*sweep, "trials_per_cell=1")
    assert refused.returncode == 2
    assert refused.stderr.startswith("pas: tracking.uri: ")
    assert "MLFLOW_TRACKING_PASSWORD" in refused.stderr
    assert not list(pas.home.glob("supernets/*"))  # no compute was spent

    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    done = pas(*sweep, "trials_per_cell=1", "--json")
    assert done.returncode == 0, done.stderr
    status = pas.json("status", "tiny")
    assert [trial["status"] for trial in status["trials"]] == ["FINISHED", "FINISHED"]
    promoted = pas.json("promote", "tiny", "--budget", "0.5", "--model", "m")
    assert promoted["version"] == 1
    with connected(studies) as cursor:
        cursor.execute("select state from trials")
        assert cursor.fetchall() == [("COMPLETE",), ("COMPLETE",)]
    assert not [*pas.home.rglob("*.db"), *pas.home.rglob("*.safetensors")]
    stored = object_store.objects(uri)
    assert {name.split("/")[-2] for name in stored if name.endswith("/result.json")} == {
        trial["trial_id"] for trial in status["trials"]
    }
    kept = [path.read_bytes() for path in pas.home.rglob("*") if path.is_file()]
    for secret in (PASSWORD, STORE_SECRET):
        assert not any(secret.encode() in content for content in [*kept, *stored.values()])
        assert secret not in done.stdout + done.stderr
