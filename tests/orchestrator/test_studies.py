from __future__ import annotations

import contextlib
import sqlite3

import optuna
import pgserver
import pytest
from optuna.trial import TrialState

from orchestrator.cells import Cell
from orchestrator.studies import CellStudies, to_distribution
from orchestrator.study_storage import StudyStorageError
from search_space import FloatRange

CELLS = [Cell(0.5, 1.0), Cell(0.25, 1.0)]
RANGES = {"learning_rate": FloatRange(low=0.01, high=0.2, log=True)}


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'optuna.db'}"


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    """URL of a real PostgreSQL, on a socket of its own."""
    server = pgserver.get_server(tmp_path_factory.mktemp("postgres"))
    yield server.get_uri()
    server.cleanup()


def open_studies(url, trials_per_cell=3, ranges=RANGES, default=0.05) -> CellStudies:
    return CellStudies(
        url,
        "sweep-1",
        CELLS,
        ranges=ranges,
        defaults={"learning_rate": default},
        trials_per_cell=trials_per_cell,
        max_failures=2,
        seed=0,
    )


def drain(studies):
    handed_out = []
    while (suggestion := studies.next()) is not None:
        handed_out.append(suggestion)
    return handed_out


def test_ranges_become_distributions():
    made = to_distribution(FloatRange(low=0.1, high=2.0, log=True))
    assert made == optuna.distributions.FloatDistribution(0.1, 2.0, log=True)


def test_cells_take_turns_until_each_has_its_trials(url):
    handed_out = drain(open_studies(url))
    assert [(s.cell, s.number) for s in handed_out] == [
        (cell, number) for number in range(3) for cell in CELLS
    ]
    assert all(0.01 <= s.hyperparameters["learning_rate"] <= 0.2 for s in handed_out)
    assert len({s.hyperparameters["learning_rate"] for s in handed_out[2:]}) == 4


def test_the_first_trial_is_the_files_own_recipe(url):
    first = drain(open_studies(url))[0]
    assert first.hyperparameters == {"learning_rate": pytest.approx(0.05)}


def test_a_recipe_outside_the_range_is_not_forced_in(url):
    first = drain(open_studies(url, default=5.0))[0]
    assert 0.01 <= first.hyperparameters["learning_rate"] <= 0.2


def test_reopening_hands_out_only_what_is_left(url):
    studies = open_studies(url)
    before = [studies.next() for _ in range(3)]
    again = open_studies(url)
    assert again.every() == sorted(before, key=lambda s: (CELLS.index(s.cell), s.number))
    rest = drain(again)
    assert len(rest) == 3
    assert not {(s.cell, s.number) for s in rest} & {(s.cell, s.number) for s in before}
    assert not again.has_next()
    assert len(drain(open_studies(url, trials_per_cell=4))) == 2  # enlarged


def test_suggestions_do_not_depend_on_interruptions(url, tmp_path):
    whole = drain(open_studies(url))
    other = f"sqlite:///{tmp_path / 'other.db'}"
    pieces = [open_studies(other).next() for _ in range(6)]
    assert pieces == whole


def test_studies_in_postgresql_are_those_in_sqlite(url, postgres):
    url_of_postgres = postgres.replace("postgresql://", "postgresql+psycopg2://")
    assert drain(open_studies(url_of_postgres)) == drain(open_studies(url))
    again = open_studies(url_of_postgres)
    assert not again.has_next()
    again.tell(CELLS[0], 0, "FINISHED", 0.9)
    study = optuna.load_study(study_name=f"sweep-1/{CELLS[0].name}", storage=url_of_postgres)
    assert study.best_value == 0.9


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg2://pas:secret@127.0.0.1:1/pas",
        "postgresql+psycopg2://pas:secret@no-such-host.invalid/pas",
        "oracle+nodriver://pas:secret@h/pas",
    ],
)
def test_a_database_out_of_reach_is_told_in_a_sentence_without_its_password(url):
    with pytest.raises(StudyStorageError) as caught:
        open_studies(url)
    assert "the Optuna storage failed" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_outcomes_are_told_truthfully_and_once(url):
    studies = open_studies(url)
    for _ in range(6):
        studies.next()
    studies.tell(CELLS[0], 0, "FINISHED", 0.9)
    studies.tell(CELLS[0], 0, "FAILED", None)  # a later word changes nothing
    studies.tell(CELLS[0], 1, "FAILED", None)
    studies.tell(CELLS[0], 2, "PRUNED", None)
    studies.tell(CELLS[1], 0, "FINISHED", float("nan"))
    other = optuna.load_study(study_name=f"sweep-1/{CELLS[1].name}", storage=url)
    assert other.trials[0].state == TrialState.FAIL
    study = optuna.load_study(study_name=f"sweep-1/{CELLS[0].name}", storage=url)
    assert [t.state for t in study.trials] == [
        TrialState.COMPLETE,
        TrialState.FAIL,
        TrialState.PRUNED,
    ]
    assert study.trials[0].value == 0.9


def test_a_cell_is_given_up_after_failures_in_a_row(url):
    studies = open_studies(url, trials_per_cell=5)
    cell, other = CELLS
    drawn = [studies.next() for _ in range(6)]
    assert [s.number for s in drawn if s.cell == cell] == [0, 1, 2]
    studies.tell(cell, 0, "FAILED", None)
    studies.tell(cell, 1, "FINISHED", 0.5)
    studies.tell(cell, 2, "FAILED", None)
    assert studies.given_up() == []
    assert [s.cell for s in (studies.next(), studies.next())] == [cell, other]
    studies.tell(cell, 3, "FAILED", None)
    studies.tell(cell, 3, "FAILED", None)  # told again after a crash
    assert studies.given_up() == [cell]
    again = open_studies(url, trials_per_cell=5)
    assert again.given_up() == [cell]
    assert [s.cell for s in drain(again)] == [other]
    assert not again.has_next()


def test_without_ranges_trials_differ_by_number_only(url):
    handed_out = drain(open_studies(url, ranges={}))
    assert len(handed_out) == 6
    assert all(s.hyperparameters == {} for s in handed_out)


@pytest.mark.parametrize("number", [0, 1])
def test_a_trial_killed_before_its_parameters_were_stored_gets_them_on_resume(
    url, tmp_path, number
):
    whole = {(s.cell, s.number): s for s in drain(open_studies(url))}
    other = f"sqlite:///{tmp_path / 'other.db'}"
    studies = open_studies(other)
    for _ in range(2 * number):
        studies.next()
    study = optuna.load_study(study_name=f"sweep-1/{CELLS[0].name}", storage=other)
    if number == 0:
        study.enqueue_trial({"learning_rate": 0.05})
    study.ask()  # stored as RUNNING, and then the process dies
    resumed = {(s.cell, s.number): s for s in open_studies(other).every()}
    assert resumed[CELLS[0], number] == whole[CELLS[0], number]


def test_studies_that_were_lost_are_told_anew(url, tmp_path):
    before = open_studies(url, trials_per_cell=4)
    handed_out = drain(before)
    again = open_studies(f"sqlite:///{tmp_path / 'new.db'}", trials_per_cell=4)
    # The second trial of the first cell had been handed out, but left nothing.
    known = [s for s in handed_out if s.number < 3 and (s.cell, s.number) != (CELLS[0], 1)]
    again.restore(known)
    restored = {(s.cell, s.number): s for s in again.every()}
    assert sorted(restored) == sorted((cell, number) for cell in CELLS for number in range(3))
    for suggestion in known:
        assert restored[suggestion.cell, suggestion.number] == suggestion
    assert 0.01 <= restored[CELLS[0], 1].hyperparameters["learning_rate"] <= 0.2
    again.tell(CELLS[1], 2, "FINISHED", 0.5)
    assert [(s.cell, s.number) for s in drain(again)] == [(CELLS[0], 3), (CELLS[1], 3)]
    again.restore(known)
    assert len(again.every()) == 8


def test_tables_of_another_optuna_are_named_with_the_way_out(url, tmp_path):
    open_studies(url)
    with contextlib.closing(sqlite3.connect(tmp_path / "optuna.db")) as database, database:
        database.execute("update version_info set schema_version = 11")
        database.execute("update alembic_version set version_num = 'v2.4.0.a'")
    with pytest.raises(StudyStorageError, match=f"optuna storage upgrade --storage {url}$"):
        open_studies(url)
