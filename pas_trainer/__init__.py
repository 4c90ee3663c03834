"""One trial's science: gates, budget loss, search, slicing, fine-tuning, reparameterization."""

from pas_trainer.annealed import AnnealedConfig, further_epochs, run_annealed
from pas_trainer.budget_loss import annealed_limits, budget_loss, project_onto_budget
from pas_trainer.compact import build_compact
from pas_trainer.compute import TrialCompute, training_macs
from pas_trainer.config import (
    CONTROLS,
    ControlConfig,
    ControlKind,
    FinetuneConfig,
    PretrainConfig,
    SearchConfig,
    SupernetTraining,
    TrialConfig,
    check_pretraining,
)
from pas_trainer.controls import run_control
from pas_trainer.data import (
    IMAGE_SUFFIXES,
    ClassificationData,
    DataConfig,
    Place,
    Resize,
    is_remote,
    load_data,
    open_sources,
    prepare_image,
    prepare_images,
    resize_of,
    set_place,
)
from pas_trainer.errors import DataError, DivergenceError, WeightsError
from pas_trainer.fuse import reparameterize
from pas_trainer.gates import Gate, GatedNetwork, attach_gates
from pas_trainer.keys import content_key, plain_values, unset_additions
from pas_trainer.loop import EpochReport, derive_seed
from pas_trainer.optim import OptimizerConfig
from pas_trainer.phases import TrialResult, read_latency_table
from pas_trainer.search import run_search
from pas_trainer.slicing import slice_channels
from pas_trainer.supernet import (
    SupernetResult,
    load_supernet,
    read_supernet_result,
    trace_supernet,
    train_supernet,
)
from pas_trainer.tasks import (
    ACCURACY,
    TASKS,
    About,
    AboutArchitecture,
    Classification,
    Companion,
    Indexed,
    Metric,
    Normalizer,
    Prepare,
    Task,
    TaskConfig,
    TaskData,
    logits_of,
    make_task,
    task_of,
)
from pas_trainer.weights import fit_weights, load_weights, read_weights, weights_identity
from pas_trainer.workers import is_first

__all__ = [
    "ACCURACY",
    "CONTROLS",
    "IMAGE_SUFFIXES",
    "TASKS",
    "About",
    "AboutArchitecture",
    "AnnealedConfig",
    "Classification",
    "ClassificationData",
    "Companion",
    "ControlConfig",
    "ControlKind",
    "DataConfig",
    "DataError",
    "DivergenceError",
    "EpochReport",
    "FinetuneConfig",
    "Gate",
    "GatedNetwork",
    "Indexed",
    "Metric",
    "Normalizer",
    "OptimizerConfig",
    "Place",
    "Prepare",
    "PretrainConfig",
    "Resize",
    "SearchConfig",
    "SupernetResult",
    "SupernetTraining",
    "Task",
    "TaskConfig",
    "TaskData",
    "TrialCompute",
    "TrialConfig",
    "TrialResult",
    "WeightsError",
    "annealed_limits",
    "attach_gates",
    "budget_loss",
    "build_compact",
    "check_pretraining",
    "content_key",
    "derive_seed",
    "fit_weights",
    "further_epochs",
    "is_first",
    "is_remote",
    "load_data",
    "load_supernet",
    "load_weights",
    "logits_of",
    "make_task",
    "open_sources",
    "plain_values",
    "prepare_image",
    "prepare_images",
    "project_onto_budget",
    "read_latency_table",
    "read_supernet_result",
    "read_weights",
    "reparameterize",
    "resize_of",
    "run_annealed",
    "run_control",
    "run_search",
    "set_place",
    "slice_channels",
    "task_of",
    "trace_supernet",
    "train_supernet",
    "training_macs",
    "unset_additions",
    "weights_identity",
]
