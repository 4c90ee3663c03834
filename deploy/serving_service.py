"""What a server does with a request: lets it in or not, reads, decodes, classifies, answers."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
import re
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from starlette.requests import Request

from deploy.serving_metrics import Metrics
from deploy.serving_model import Job, Outcome, ServedModel
from deploy.serving_requests import Limits, RequestError, form_images, json_images, prepared

_DECODERS = 2  # images decoded at a time, which bounds the memory for them


class Service:
    """What the application serves.

    Args:
        model: returns the model of this moment; ``None`` before there is one.
        classify: classifies a job.
        metrics: where answers are counted.
        limits: what requests may cost.
        token_digest: see :func:`digest_of`; ``None``: everybody is let in.
    """

    def __init__(
        self,
        model: Callable[[], ServedModel | None],
        classify: Callable[[Job], Awaitable[Outcome]],
        metrics: Metrics,
        limits: Limits,
        token_digest: str | None = None,
    ) -> None:
        self.model = model
        self.metrics = metrics
        self.limits = limits
        self._classify = classify
        self._token_digest = token_digest
        self._decoders = ThreadPoolExecutor(_DECODERS, "decoder")
        self._requests = 0
        self._held_bytes = 0

    def lets_in(self, authorization: str) -> bool:
        """Whether the value of an ``Authorization`` header is the token's."""
        if self._token_digest is None:
            return True
        scheme, _, token = authorization.partition(" ")
        same = hmac.compare_digest(digest_of(token.strip()), self._token_digest)
        return same and scheme.lower() == "bearer"

    async def predict(self, request: Request) -> dict[str, Any]:
        """Answer a request for predictions.

        Raises:
            RequestError: it is refused, or takes too long.
        """
        model, top = self.loaded(), _top(request)
        reading = True
        with self._admitted() as hold:
            try:
                async with asyncio.timeout(self.limits.timeout_s):
                    body = await _read(request, self.limits, hold)
                    reading = False
                    job = await self._job(model, request, body)
                    outcome = await self._classify(job)
            except TimeoutError:
                seconds = f"within {self.limits.timeout_s:g} s"
                if reading:
                    raise RequestError(408, f"the request did not arrive {seconds}") from None
                sentence = f"the server did not classify {seconds}; try again later"
                raise RequestError(503, sentence, retry=True) from None
        if outcome.batch_images:
            self.metrics.classified(outcome.batch_images)
        return _answer(model, outcome, top)

    def loaded(self) -> ServedModel:
        """Return the model of this moment.

        Raises:
            RequestError: there is none yet.
        """
        model = self.model()
        if model is None:
            raise RequestError(503, "no model is loaded yet; try again later", retry=True)
        return model

    async def _job(self, model: ServedModel, request: Request, body: bytes) -> Job:
        architecture, resize = model.classifier.architecture, model.classifier.resize
        kind = _content_type(request)
        files = await form_images(request.headers, body, self.limits) if kind == "form" else None

        def decode() -> Job:
            images: list[Any]
            if files is not None:
                images = list(files)
            else:
                images = json_images(body) if kind == "json" else [body]
            return Job(model, prepared(images, architecture, resize, self.limits))

        return await asyncio.get_running_loop().run_in_executor(self._decoders, decode)

    @contextmanager
    def _admitted(self) -> Iterator[Callable[[int], None]]:
        """Give what is to be called with the size of each piece of the body that is held."""
        busy = RequestError(503, "the server has too many requests; try again later", retry=True)
        held = 0

        def hold(num_bytes: int) -> None:
            nonlocal held
            if self._held_bytes + num_bytes > self.limits.held_bytes:
                raise busy
            held += num_bytes
            self._held_bytes += num_bytes

        if self._requests >= self.limits.requests:
            raise busy
        self._requests += 1
        try:
            yield hold
        finally:
            self._requests -= 1
            self._held_bytes -= held


def digest_of(token: str) -> str:
    """Return the SHA-256 (hexadecimal) of a token, which is all that servers know of it."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


async def _read(request: Request, limits: Limits, hold: Callable[[int], None]) -> bytes:
    """Read a body, piece by piece, no further than it may go."""
    too_large = RequestError(413, f"the body is too large; send at most {limits.body_bytes} bytes")
    said = request.headers.get("content-length", "0")
    if said.isdecimal() and int(said[:20]) > limits.body_bytes:
        raise too_large
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError(415, "the body is compressed; send it as it is")
    _content_type(request)
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > limits.body_bytes:
            raise too_large
        hold(len(piece))
        pieces.append(piece)
    return b"".join(pieces)


def _content_type(request: Request) -> str:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("image/"):
        return "file"
    known = {"application/json": "json", "multipart/form-data": "form"}
    if kind not in known:
        raise RequestError(
            415,
            f"content type {kind[:80]!r} is not read; send an image as image/*, files as "
            "multipart/form-data, or application/json",
        )
    return known[kind]


def _top(request: Request) -> int | None:
    text = request.query_params.get("top")
    if text is None:
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,5}", text):
        raise RequestError(422, f"top is {text[:20]!r}; it is a number of classes, 1 or more")
    return int(text)


def _answer(model: ServedModel, outcome: Outcome, top: int | None) -> dict[str, Any]:
    classes = model.classifier.architecture.classes
    values, indices = outcome.probabilities.topk(min(top or len(classes), len(classes)))
    predictions = [
        {
            "label": classes[row[0]],
            "probability": probabilities[0],
            "probabilities": dict(zip((classes[i] for i in row), probabilities, strict=True)),
        }
        for row, probabilities in zip(indices.tolist(), values.tolist(), strict=True)
    ]
    if not all(math.isfinite(one["probability"]) for one in predictions):
        raise RequestError(422, "the network's outputs for these images are not finite numbers")
    manifest = model.manifest
    return {"model": manifest.model, "version": manifest.version, "predictions": predictions}
