"""Of several workers' errors, the one that tells what happened."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from torch.distributed import DistBackendError

from orchestrator.errors import WorkerLostError
from orchestrator.ray_workers import cause_of
from pas_trainer import DataError

GLOO = RuntimeError("[/gloo/transport/tcp/pair.cc:544] Connection closed by peer")
DIED = WorkerHealthCheckFailedError("gone", ActorDiedError())


@pytest.mark.parametrize(
    "failures",
    [{0: GLOO, 1: DIED}, {1: DIED}, {0: GLOO}, {0: DistBackendError("NCCL"), 1: ActorDiedError()}],
)
def test_a_lost_worker_is_not_the_trials_fault(failures):
    assert isinstance(cause_of(failures), WorkerLostError)


@pytest.mark.parametrize("error", [DataError("broken image"), MemoryError(), KeyError("bug")])
def test_what_one_worker_raised_is_told_rather_than_what_the_others_missed(error):
    assert cause_of({0: GLOO, 1: error}) is error
    assert cause_of({0: error, 1: DIED}) is error
