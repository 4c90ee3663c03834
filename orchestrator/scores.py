"""How scores and counts are shown, whatever metric a sweep compares networks by."""

from __future__ import annotations

_WORDS = {"map": "mAP", "psnr": "PSNR", "ssim": "SSIM", "kid": "KID", "fid": "FID"}
_UNIT = "_db"
"""Ends the names of metrics in decibels."""


def label(metric: str) -> str:
    """Return a metric's name as people read it: ``mask mAP``, ``PSNR``."""
    return " ".join(_WORDS.get(word, word) for word in metric.removesuffix(_UNIT).split("_"))


def axis(metric: str) -> str:
    """Return what stands along an axis: ``validation PSNR (dB)``."""
    return f"validation {label(metric)}" + (" (dB)" if metric.endswith(_UNIT) else "")


def figure(metric: str, value: float | None) -> str:
    """Return a score as figures: ``0.9312``, ``21.47 dB``; nothing where there is none."""
    if value is None:
        return ""
    return f"{value:.2f} dB" if metric.endswith(_UNIT) else f"{value:.4f}"


def short(metric: str, value: float | None, digits: int = 1) -> str:
    """Return a score to be read at a glance: ``93.1 %`` of an accuracy, else as figures."""
    if value is None or metric != "accuracy":
        return figure(metric, value)
    return f"{100 * value:.{digits}f} %"


def count_text(value: float | None) -> str:
    """Return a number with three digits and a unit, such as ``13.4 M``."""
    if value is None:
        return ""
    rounded = float(f"{value:.3g}")
    for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if rounded >= size:
            return f"{rounded / size:.3g} {unit}"
    return f"{value:g}"
