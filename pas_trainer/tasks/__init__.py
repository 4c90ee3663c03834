"""Tasks: what networks are for, and all that differs between them."""

from pas_trainer.tasks.about import About, AboutArchitecture, Indexed, TaskData
from pas_trainer.tasks.classification import Classification, logits_of
from pas_trainer.tasks.companion import Companion
from pas_trainer.tasks.config import TASKS, TaskConfig, make_task, task_of
from pas_trainer.tasks.metric import ACCURACY, Metric
from pas_trainer.tasks.normalizer import Normalizer
from pas_trainer.tasks.segmentation import InstanceSegmentation
from pas_trainer.tasks.shipped import Judge, PlainNetwork
from pas_trainer.tasks.task import Prepare, Task
from pas_trainer.tasks.translation import ImageTranslation

__all__ = [
    "ACCURACY",
    "TASKS",
    "About",
    "AboutArchitecture",
    "Classification",
    "Companion",
    "ImageTranslation",
    "Indexed",
    "InstanceSegmentation",
    "Judge",
    "Metric",
    "Normalizer",
    "PlainNetwork",
    "Prepare",
    "Task",
    "TaskConfig",
    "TaskData",
    "logits_of",
    "make_task",
    "task_of",
]
