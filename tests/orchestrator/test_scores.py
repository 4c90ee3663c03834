"""Scores as people read them."""

from __future__ import annotations

import pytest

from orchestrator import scores


@pytest.mark.parametrize(
    ("metric", "label", "axis", "figure", "short"),
    [
        ("accuracy", "accuracy", "validation accuracy", "0.9312", "93.1 %"),
        ("mask_map_50", "mask mAP 50", "validation mask mAP 50", "0.9312", "0.9312"),
        ("psnr_db", "PSNR", "validation PSNR (dB)", "0.93 dB", "0.93 dB"),
        ("mean_error", "mean error", "validation mean error", "0.9312", "0.9312"),
    ],
)
def test_texts(metric, label, axis, figure, short):
    assert scores.label(metric) == label
    assert scores.axis(metric) == axis
    assert scores.figure(metric, 0.9312) == figure
    assert scores.short(metric, 0.9312) == short
    assert scores.figure(metric, None) == scores.short(metric, None) == ""


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, ""),
        (999, "999"),
        (999_400, "999 k"),
        (999_600, "1 M"),
        (13_419_776, "13.4 M"),
        (1e9, "1 G"),
        (1.5e12, "1.5 T"),
        (123_456_789_012_345_678, "123 P"),
    ],
)
def test_counts_have_three_digits_and_the_unit_that_fits(count, text):
    assert scores.count_text(count) == text
