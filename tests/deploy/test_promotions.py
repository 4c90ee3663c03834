"""Moves of an alias in a real registry. Versions without files do: nothing is loaded."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from deploy import CONTENT_HASH_TAG, PackageError, content_hash, promotions
from deploy.moves import DONE_TAG, Move, is_moved_by_others, states
from deploy.promotions import (
    AliasMovedError,
    PromotionError,
    aliases_of,
    check_request,
    known_moves,
    move_alias,
    read_moves,
)
from deploy.registered import check_version
from deploy.rollback import roll_back


class Model:
    """A registered model with versions 1 to 4."""

    name = "it's a model"

    def __init__(self, uri: str) -> None:
        self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self.client.create_registered_model(self.name)
        for _ in range(4):
            self.client.create_model_version(self.name, source="nowhere")

    def promote(self, version: int, alias: str = "champion", **about) -> tuple[Move, bool]:
        seen = aliases_of(self.client, self.name).get(alias)
        return move_alias(
            *(self.client, self.name),
            alias=alias,
            kind="promotion",
            to_version=version,
            seen=seen,
            **about,
        )

    def back(self, to: int | None = None, alias: str = "champion") -> int:
        move, _ = roll_back(self.client, self.name, alias=alias, check=lambda _: None, to=to)
        return move.to_version

    @property
    def champion(self) -> int | None:
        return aliases_of(self.client, self.name).get("champion")

    def moves(self) -> list[Move]:
        return read_moves(self.client, self.name, "champion")


@pytest.fixture
def model(tracking_uri: str) -> Model:
    return Model(tracking_uri)


def test_every_move_is_recorded_and_each_alias_has_its_own(model):
    first, in_force = model.promote(1, why="good", score=0.9, gates={"parity": [True, 0, 1]})
    assert in_force
    model.promote(3, alias="challenger")
    model.promote(2)
    assert aliases_of(model.client, model.name) == {"champion": 2, "challenger": 3}
    one, two = model.moves()
    assert (one.from_version, one.to_version, one.why, one.score) == (None, 1, "good", 0.9)
    assert one.gates == {"parity": [True, 0, 1]}
    assert one.move_id == first.move_id
    assert (two.from_version, two.to_version) == (1, 2)
    assert [m.number for m in read_moves(model.client, model.name)] == [1, 2, 3]
    assert all(m.done and "@" in m.who for m in read_moves(model.client, model.name))
    again, _ = model.promote(2)
    assert again == two
    assert len(model.moves()) == 2


def test_rolling_back_twice_goes_back_two_versions(model):
    for version in (1, 2, 3):
        model.promote(version)
    assert [model.back(), model.champion] == [2, 2]
    assert [model.back(), model.champion] == [1, 1]
    with pytest.raises(PromotionError, match="no version before 1"):
        model.back()
    assert [m.kind for m in model.moves()] == ["promotion"] * 3 + ["rollback"] * 2
    assert [model.back(to=3), model.champion] == [3, 3]
    assert model.back() == 1


def test_only_versions_that_the_alias_has_had_can_be_gone_back_to(model):
    model.promote(1)
    model.promote(2)
    with pytest.raises(PromotionError, match="never pointed to version 4"):
        model.back(to=4)
    with pytest.raises(PromotionError, match="version 2 already"):
        model.back(to=2)
    assert model.back(to=1) == 1


def test_a_version_that_must_not_be_used_is_not_gone_back_to(model):
    model.promote(1)
    model.promote(2)

    def refuse(version: int) -> None:
        raise PackageError(f"version {version} is corrupt")

    with pytest.raises(PackageError, match="version 1 is corrupt"):
        roll_back(model.client, model.name, alias="champion", check=refuse)
    assert model.champion == 2
    assert len(model.moves()) == 2


def test_what_others_have_done_is_seen_and_rolled_back(model):
    model.promote(1)
    model.promote(2)
    model.client.set_registered_model_alias(model.name, "champion", "4")
    assert is_moved_by_others(model.moves(), model.champion)
    assert model.back() == 2
    assert not is_moved_by_others(model.moves(), model.champion)
    assert model.moves()[-1].from_version == 4
    model.client.delete_registered_model_alias(model.name, "champion")
    assert is_moved_by_others(model.moves(), model.champion)
    assert model.back() == 2


@pytest.mark.parametrize("kind", ["promotion", "rollback"])
@pytest.mark.parametrize("last_call", ["set_registered_model_alias", "done tag"])
def test_a_move_that_broke_off_is_finished_by_doing_it_again(model, monkeypatch, kind, last_call):
    model.promote(1)
    model.promote(2)

    def do() -> object:
        return model.promote(3) if kind == "promotion" else model.back()

    tag = MlflowClient.set_model_version_tag

    def no_alias(self, *arguments):
        raise ConnectionError("killed")

    def no_done_tag(self, name, version, key, value):
        if key.startswith(DONE_TAG):
            raise ConnectionError("killed")
        tag(self, name, version, key, value)

    with monkeypatch.context() as patch:
        if last_call == "done tag":
            patch.setattr(MlflowClient, "set_model_version_tag", no_done_tag)
        else:
            patch.setattr(MlflowClient, last_call, no_alias)
        with pytest.raises(ConnectionError):
            do()
    target = 3 if kind == "promotion" else 1
    moved = last_call == "done tag"
    assert model.champion == (target if moved else 2)
    assert states(model.moves(), model.champion)[-1] == ("in force" if moved else "unfinished")
    do()
    assert model.champion == target
    assert len(model.moves()) == 3
    assert model.moves()[-1].done
    assert kind == "rollback" or model.back() == 2


def test_promotions_at_once_leave_one_champion_and_all_records(tracking_uri, monkeypatch):
    """Every promotion has looked before any writes; whichever sets the alias last, all agree."""
    model = Model(tracking_uri)
    written = threading.Barrier(3)
    settle = promotions._settle

    def together(*arguments):
        written.wait(timeout=60)
        return settle(*arguments)

    monkeypatch.setattr(promotions, "_settle", together)
    with ThreadPoolExecutor(3) as pool:
        outcomes = list(pool.map(model.promote, (2, 3, 4)))
    moves = model.moves()
    assert sorted(m.to_version for m in moves) == [2, 3, 4]
    assert {m.number for m in moves} == {1}
    assert model.champion == moves[-1].to_version
    assert states(moves, model.champion)[-1] == "in force"
    assert [move.to_version for move, in_force in outcomes if in_force] == [model.champion]


@pytest.mark.parametrize("call", ["set_registered_model_alias", "set_model_version_tag"])
def test_another_that_writes_the_same_row_at_the_same_moment_does_no_harm(model, monkeypatch, call):
    """As a database answers the slower of two inserts."""
    write, failed = getattr(MlflowClient, call), []

    def collide(self, *arguments):
        if not failed and (call != "set_model_version_tag" or DONE_TAG in arguments[2]):
            failed.append(arguments)
            write(self, *arguments)
            raise MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed")
        write(self, *arguments)

    monkeypatch.setattr(MlflowClient, call, collide)
    assert model.promote(1)[1]
    assert failed
    assert states(model.moves(), model.champion) == ["in force"]
    assert model.moves()[0].done


def test_the_slower_of_two_does_not_leave_the_alias_behind(model, monkeypatch):
    """One records first and sets the alias last, after another promotion came and went."""
    model.promote(1)
    set_alias = MlflowClient.set_registered_model_alias

    def slow(self, name, alias, version):
        monkeypatch.setattr(MlflowClient, "set_registered_model_alias", set_alias)
        assert model.promote(3)[1]
        set_alias(self, name, alias, version)

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", slow)
    move, in_force = model.promote(2)
    assert not in_force
    assert model.champion == 3
    assert states(model.moves(), 3) == ["past", "overtaken", "in force"]
    assert move.move_id in {m.move_id for m in model.moves()}
    assert model.back() == 1


def test_an_alias_that_moved_since_it_was_looked_at_is_not_moved(model):
    model.promote(1)
    with pytest.raises(AliasMovedError):
        move_alias(
            *(model.client, model.name),
            alias="champion",
            kind="promotion",
            to_version=2,
            seen=None,
        )
    assert len(model.moves()) == 1


def test_what_was_never_promoted_is_told(model):
    with pytest.raises(PromotionError, match="no registered model 'other'"):
        known_moves(model.client, "other")
    with pytest.raises(PromotionError, match="has no recorded promotion"):
        known_moves(model.client, model.name, "champion")
    model.promote(1, alias="challenger")
    with pytest.raises(PromotionError, match=r"'champion' .* never promoted; known: challenger"):
        known_moves(model.client, model.name, "champion")


@pytest.mark.parametrize(
    ("name", "alias", "why", "found"),
    [
        *[("a/b", "champion", "", "'a/b'"), (" ", "champion", "", "1 to 200 characters")],
        *[("a\\b", "champion", "", "'a"), (".m", "champion", "", "not begin with '.'")],
        ("m" * 201, "champion", "", "1 to 200 characters"),
        ("a'b\"c", "champion", "", "both kinds of quotes"),
        *[("m", "latest", "", "'latest'"), ("m", "V2", "", "'V2'"), ("m", "a b", "", "'a b'")],
        ("m", "champion", "x" * 501, "501 characters; at most 500"),
    ],
)
def test_names_that_mlflow_would_refuse_are_refused_before_anything_is_done(
    name, alias, why, found
):
    with pytest.raises(PromotionError, match=found):
        check_request(name, alias, why)
    check_request("m", "champion", "")


def test_a_versions_files_are_checked(model, package, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(package, folder / "extra_files")
    tags = {CONTENT_HASH_TAG: content_hash(package)}
    version = model.client.create_model_version(model.name, source=str(folder), tags=tags).version
    check_version(model.client, model.name, int(version))
    path = folder / "extra_files" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(PackageError, match="content hash is another"):
        check_version(model.client, model.name, int(version))
    path.unlink()
    with pytest.raises(PromotionError, match=r"has no weights\.safetensors any more"):
        check_version(model.client, model.name, int(version))
    with pytest.raises(PromotionError, match="not promoted by this package"):
        check_version(model.client, model.name, 1)
