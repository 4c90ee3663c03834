"""A small network behind the serving application, without Ray and without a registry."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from exported import export_images, registered, small_package
from PIL import Image
from starlette.applications import Starlette

from deploy.export_folder import write_export
from deploy.serving_app import build_app
from deploy.serving_metrics import Metrics
from deploy.serving_model import Job, Outcome, Pointer, ServedModel, classify_together, load_served
from deploy.serving_requests import Limits
from deploy.serving_service import Service, digest_of


def exported_folder(root: Path) -> Path:
    """An export of random weights that takes digits; torch only, which is quick."""
    package = small_package(root / "package")
    write_export(
        root / "export", registered(package), package, export_images(int8=False), formats=[]
    )
    return root / "export"


def load(folder: Path) -> ServedModel:
    return load_served(Pointer(folder=str(folder), engine="torch", accuracy=0.75))


async def classify_alone(job: Job) -> Outcome:
    return classify_together([job])[0]


def app_of(
    model: ServedModel | None,
    *,
    limits: Limits | None = None,
    token: str | None = None,
    classify=classify_alone,
    metrics: Metrics | None = None,
) -> Starlette:
    digest = None if token is None else digest_of(token)
    service = Service(lambda: model, classify, metrics or Metrics(), limits or Limits(), digest)
    return build_app(service)


def file_of(pixels: np.ndarray, kind: str = "PNG", **options) -> bytes:
    """Pixels (H, W) or (H, W, C) as an image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()
