"""Records as JSON: scores under the metric's name."""

from __future__ import annotations

import dataclasses
import json

import pytest

from orchestrator.records import TrialRecord
from pas_trainer import Metric
from pas_trainer.tasks.metric import RESERVED

ACCURATE = TrialRecord(
    trial_id="b0.5-s10-0",
    sweep_id="s-1",
    status="FINISHED",
    budget=0.5,
    strength=10.0,
    number=0,
    score=0.93,
    test_score=0.91,
    widths={"stem": 3},
)
NOISY = dataclasses.replace(
    ACCURATE, metric="psnr_db", score=21.5, test_score=20.25, metrics={"ssim": 0.5}
)
DISTANT = dataclasses.replace(
    ACCURATE, metric="swd", higher_is_better=False, score=0.25, test_score=None
)


@pytest.mark.parametrize("record", [ACCURATE, NOISY, DISTANT])
def test_a_record_comes_back_from_json(record):
    assert TrialRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_scores_stand_under_the_metrics_name():
    document = NOISY.to_json()
    assert (document["psnr_db"], document["test_psnr_db"]) == (21.5, 20.25)
    assert document["metrics"] == {"ssim": 0.5}
    assert not {"accuracy", "score", "test_score"} & document.keys()


def test_a_metric_cannot_have_the_name_of_something_else_in_a_record():
    assert {field.name for field in dataclasses.fields(TrialRecord)} <= RESERVED
    for name in ("price", "loss", "test_error", "epoch_error"):
        with pytest.raises(ValueError, match="something else"):
            Metric(name)


def test_more_gain_is_always_better():
    assert ACCURATE.gain == 0.93
    assert DISTANT.gain == -0.25
    assert dataclasses.replace(DISTANT, score=None).gain is None
