"""Searches of the tasks beside classification, as small as they go."""

from __future__ import annotations

from pathlib import Path

from tiny_data import write_domains, write_pairs, write_penn_fudan

from pas_trainer import (
    DataConfig,
    FinetuneConfig,
    OptimizerConfig,
    PretrainConfig,
    SearchConfig,
    SupernetTraining,
    TaskConfig,
    TrialConfig,
)
from search_space import Budget, SupernetConfig

ADAMW = OptimizerConfig(
    name="adamw", learning_rate=2e-3, momentum=0.5, weight_decay=0.0, batch_size=2, warmup_epochs=0
)


def paired(root: Path) -> TrialConfig:
    """pix2pix, of pairs."""
    write_pairs(root, train=4, val=2, test=2)
    return _trial(
        TaskConfig(name="image_translation", options={"critic_width": 4, "distillation": 1.0}),
        DataConfig(name="paired", root=str(root), image_size=64),
        SupernetConfig(name="pix2pix_unet_64", options={"width": 0.0625}),
        ADAMW,
    )


def unpaired(root: Path) -> TrialConfig:
    """CycleGAN, of two folders."""
    write_domains(root, grain=90, trainA=5, trainB=6, testA=2, testB=3)
    return _trial(
        TaskConfig(name="image_translation", options={"critic_width": 4, "metric": "swd"}),
        DataConfig(name="unpaired", root=str(root), image_size=32, validation=0.4),
        SupernetConfig(name="cyclegan_resnet_6", options={"width": 0.0625}),
        ADAMW,
    )


def outlined(root: Path) -> TrialConfig:
    """Mask R-CNN, of outlined objects."""
    write_penn_fudan(root)
    return _trial(
        TaskConfig(name="instance_segmentation"),
        DataConfig(name="penn_fudan", root=str(root), image_size=64, train_images=8, test_images=4),
        SupernetConfig(
            name="maskrcnn_resnet18_fpn",
            options={
                **{"width": 0.0625, "fpn_channels": 8, "head_channels": 8},
                **{"rpn_post_nms_top_n_train": 50, "box_batch_size_per_image": 16},
                **{"rpn_post_nms_top_n_test": 20, "box_detections_per_img": 10},
            },
        ),
        OptimizerConfig(learning_rate=1e-3, batch_size=2, warmup_epochs=0),
    )


def pretraining(trial: TrialConfig) -> SupernetTraining:
    """Return how the supernet of a trial is trained, for one epoch."""
    return SupernetTraining(
        data=trial.data,
        supernet=trial.supernet,
        optimizer=trial.optimizer,
        pretrain=PretrainConfig(epochs=1),
        task=trial.task,
    )


def _trial(
    task: TaskConfig, data: DataConfig, supernet: SupernetConfig, optimizer: OptimizerConfig
) -> TrialConfig:
    return TrialConfig(
        task=task,
        data=data,
        supernet=supernet,
        budget=Budget(resource="macs", limit=0.5),
        strength=10.0,
        optimizer=optimizer,
        search=SearchConfig(epochs=2),
        finetune=FinetuneConfig(epochs=2, recalibration_batches=1),
        seed=3,
        device="cpu",
    )
