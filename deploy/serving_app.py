"""The serving application: routes, authentication, errors. It knows neither Ray nor MLflow.

Whoever runs it brings the model and what classifies a job, alone or together with others. Every
refusal is a status and JSON with one sentence.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deploy.serving_metrics import CONTENT_TYPE
from deploy.serving_model import ServedModel
from deploy.serving_requests import RequestError
from deploy.serving_service import Service

OPEN_PATHS = ("/health", "/ready")
"""Answered without a token: they tell nothing but that the server is there."""


def build_app(
    service: Service, background: Callable[[], Awaitable[None]] | None = None
) -> Starlette:
    """Return the application.

    Args:
        service: what it serves.
        background: runs while the application does, and is cancelled at its end.
    """

    async def predict(request: Request) -> Response:
        return JSONResponse(await service.predict(request))

    async def describe(_: Request) -> Response:
        return JSONResponse(_description(service.loaded()))

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def ready(_: Request) -> Response:
        service.loaded()
        return JSONResponse({"status": "ready"})

    async def metrics(_: Request) -> Response:
        text = await asyncio.to_thread(service.metrics.text)
        return Response(text, media_type=CONTENT_TYPE)

    routes = [
        Route("/predict", predict, methods=["POST"]),
        *(Route(path, describe) for path in ("/", "/model")),
        Route("/health", health),
        Route("/ready", ready),
        Route("/metrics", metrics),
    ]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        task = asyncio.ensure_future(background()) if background else None
        yield
        if task:
            task.cancel()

    app = Starlette(
        routes=routes,
        exception_handlers={
            RequestError: _refused,
            HTTPException: _refused_by_route,
            ClientDisconnect: _gone,
            Exception: _broken,
        },
        lifespan=lifespan,
    )
    paths = frozenset(route.path for route in routes)
    app.add_middleware(_Door, service=service, paths=paths)
    return app


class _Door:
    """Lets requests in by their token, and counts what they are answered with."""

    def __init__(self, app: ASGIApp, service: Service, paths: frozenset[str]) -> None:
        self._app, self._service, self._paths = app, service, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, path = time.perf_counter(), scope["path"]
        answered = False

        def count(status: int) -> None:
            nonlocal answered
            answered = True
            known = path if path in self._paths else "other"
            self._service.metrics.answered(known, status, time.perf_counter() - began)

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                count(message["status"])
            await send(message)

        given = Request(scope).headers.get("authorization", "")
        if path in OPEN_PATHS or self._service.lets_in(given):
            try:
                await self._app(scope, receive, counted)
            except Exception:  # which Starlette answers, outside of what was added to it
                if not answered:
                    count(500)
                raise
            return
        answer = _error(401, "the token is missing or wrong; send Authorization: Bearer TOKEN")
        answer.headers["WWW-Authenticate"] = "Bearer"
        await answer(scope, receive, counted)


def _description(model: ServedModel) -> dict[str, Any]:
    manifest, architecture = model.manifest, model.classifier.architecture
    return {
        "model": manifest.model,
        "version": manifest.version,
        "classes": list(architecture.classes),
        "image_size": architecture.image_size,
        "channels": architecture.in_channels,
        "accuracy": model.pointer.accuracy,
        "engine": model.pointer.engine,
        "content_hash": manifest.content_hash,
    }


def _error(status: int, sentence: str, *, retry: bool = False) -> JSONResponse:
    headers = {"Retry-After": "1"} if retry else None
    return JSONResponse({"error": sentence}, status_code=status, headers=headers)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return _error(error.status, str(error), retry=error.retry)


async def _refused_by_route(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer = _error(error.status_code, f"{error.detail}; POST /predict, GET /model, /ready")
    answer.headers.update(error.headers or {})
    return answer


async def _gone(_: Request, __: Exception) -> Response:
    return _error(400, "the connection was closed before all of the request had arrived")


async def _broken(_: Request, __: Exception) -> Response:
    return _error(500, "the server met an error of its own, which its log tells of")
