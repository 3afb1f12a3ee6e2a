"""The server's addresses: what is asked where, who may ask, and how errors look."""

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

import mpi_spp
from mpi_spp.entrypoints.openai.answers import Answers
from mpi_spp.entrypoints.openai.bridge import Bridge
from mpi_spp.entrypoints.openai.metrics import Metrics
from mpi_spp.entrypoints.openai.protocol import Asked, Reader, Refused
from mpi_spp.model.text.prompt import TextStream

_LOOK_SECONDS = 0.1  # between two looks whether a client is still there
_OPEN = ("/health", "/version")  # to anyone


@dataclass(frozen=True)
class Limits:
    """Who may ask, and how much at once."""

    api_keys: Sequence[str] = ()
    cors_origins: Sequence[str] = ()
    most_body_bytes: int = 8 << 20


def make_app(
    reader: Reader, bridge: Bridge, stream: Callable[[], TextStream], model: dict[str, Any], limits: Limits
) -> FastAPI:
    """`model`: what /v1/models tells of it. `stream`: what turns the tokens of one more choice into text."""
    app = FastAPI(title="mpi-spp", version=mpi_spp.__version__, docs_url=None, redoc_url=None)
    metrics = Metrics()
    _add_facts(app, model, bridge, metrics)
    _add_work(app, reader, model, limits, lambda asked: Answers(asked, bridge, metrics, stream))
    _guard(app, limits)
    return app


def _add_work(
    app: FastAPI, reader: Reader, model: dict[str, Any], limits: Limits, answers_to: Callable[[Asked], Answers]
) -> None:
    """What reads a body."""
    turn = asyncio.Lock()

    async def read(request: Request, how: Callable[[bytes], Any]) -> Any:
        """One body at a time, in a thread: tokenizers and templates are not for several."""
        body = await _body(request, limits.most_body_bytes)
        async with turn:
            return await run_in_threadpool(how, body)

    async def answered(request: Request, how: Callable[[bytes], Asked]) -> Response:
        asked: Asked = await read(request, how)
        answers = answers_to(asked)
        answers.submit()
        if asked.streams:
            return StreamingResponse(answers.events(), media_type="text/event-stream", headers=_AT_ONCE)
        return JSONResponse(await _while_there(request, answers.whole()))

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await answered(request, reader.chat)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await answered(request, reader.completion)

    @app.post("/tokenize")
    async def tokenize(request: Request) -> dict[str, Any]:
        ids = await read(request, reader.token_ids)
        return {"tokens": ids, "count": len(ids), "max_model_len": model["max_model_len"]}

    @app.post("/detokenize")
    async def detokenize(request: Request) -> dict[str, Any]:
        return {"prompt": await read(request, reader.text)}


def _add_facts(app: FastAPI, model: dict[str, Any], bridge: Bridge, metrics: Metrics) -> None:
    """What is told of the server."""

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        if name != model["id"]:
            raise Refused(404, f"model: {name!r} is not here; give {model['id']!r}", "model", "model_not_found")
        return model

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": mpi_spp.__version__}

    @app.get("/metrics")
    async def told() -> Response:
        return Response(metrics.text(bridge.num_waiting, bridge.num_running), media_type="text/plain; version=0.0.4")


_AT_ONCE = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # proxies should hold no event back


def _guard(app: FastAPI, limits: Limits) -> None:
    """Let in who has a key, and tell errors as OpenAI does."""

    @app.middleware("http")
    async def check_key(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip().encode()
        known = any(hmac.compare_digest(given, key.encode()) for key in limits.api_keys)
        if limits.api_keys and not known and request.method != "OPTIONS" and request.url.path not in _OPEN:
            return _error(Refused(401, "the API key is missing or wrong; send Authorization: Bearer KEY"))
        return await go_on(request)

    if limits.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(limits.cors_origins), allow_methods=["*"], allow_headers=["*"]
        )

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return _error(error)

    @app.exception_handler(HTTPException)
    async def no_such_place(request: Request, error: HTTPException) -> Response:
        return _error(Refused(error.status_code, f"{request.method} {request.url.path}: {error.detail}"))


def _error(refused: Refused) -> Response:
    headers = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else None
    return JSONResponse(refused.told(), refused.status, headers)


async def _body(request: Request, most: int) -> bytes:
    """Raises Refused for one that is too long, before all of it is read."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > most:
            raise Refused(413, f"the body has more than {most} bytes; ask for less at once")
    return bytes(content)


async def _while_there(request: Request, work: Awaitable[Any]) -> Any:
    """What the work gives; it is cancelled when the client leaves."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait([task], timeout=_LOOK_SECONDS))[0]:
            if await request.is_disconnected():
                raise Refused(499, "the client has left")
        return task.result()
    finally:
        task.cancel()
