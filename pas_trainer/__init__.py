"""One trial's science: gates, budget loss, search, slicing, fine-tuning, reparameterization."""

from pas_trainer.budget_loss import annealed_limit, budget_loss, project_onto_budget
from pas_trainer.config import (
    FinetuneConfig,
    PretrainConfig,
    SearchConfig,
    SupernetTraining,
    TrialConfig,
    content_key,
)
from pas_trainer.data import ClassificationData, DataConfig, load_data, open_sources
from pas_trainer.errors import DataError, DivergenceError
from pas_trainer.fuse import reparameterize
from pas_trainer.gates import Gate, GatedNetwork, attach_gates
from pas_trainer.loop import EpochReport, derive_seed, evaluate
from pas_trainer.optim import OptimizerConfig
from pas_trainer.search import TrialResult, run_search
from pas_trainer.slicing import slice_channels
from pas_trainer.supernet import SupernetResult, load_supernet, read_supernet_result, train_supernet

__all__ = [
    "ClassificationData",
    "DataConfig",
    "DataError",
    "DivergenceError",
    "EpochReport",
    "FinetuneConfig",
    "Gate",
    "GatedNetwork",
    "OptimizerConfig",
    "PretrainConfig",
    "SearchConfig",
    "SupernetResult",
    "SupernetTraining",
    "TrialConfig",
    "TrialResult",
    "annealed_limit",
    "attach_gates",
    "budget_loss",
    "content_key",
    "derive_seed",
    "evaluate",
    "load_data",
    "load_supernet",
    "open_sources",
    "project_onto_budget",
    "read_supernet_result",
    "reparameterize",
    "run_search",
    "slice_channels",
    "train_supernet",
]
