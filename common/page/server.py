"""The page's server: what it answers, how much at once, and for how long.

Nothing that a request says becomes a path: a checkpoint is a place in a list and a number that is
there, a file is a name in a table. Pictures stay in memory only while they are looked at.
"""

import asyncio
import json
import os
from typing import Any, AsyncIterator, Callable, Dict, Tuple

from common import cli
from common.cli import UserError

from .guard import HEADERS, fault
from .models import Models

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.datastructures import MutableHeaders
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError:
    cli.refuse_import("the page needs starlette and uvicorn; pip install '.[page]'")

MAX_BYTES = 20_000_000  # of an upload
_PICTURES = 8  # that arrive, wait or run at once
_CONNECTIONS = 256
_SECONDS = 20.0  # for a request's headers to arrive, for its picture, and for the answer
_HERE = os.path.dirname(os.path.abspath(__file__))
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".jpg": "image/jpeg"}


class _Slots:
    """So many may be inside at once; one more is refused. Of the event loop's thread alone."""

    def __init__(self, count: int, what: str):
        self._free, self._what = count, what

    def __enter__(self):
        if not self._free:
            raise HTTPException(503, f"busy: {self._what}; try again in a moment")
        self._free -= 1

    def __exit__(self, *_error):
        self._free += 1


class Page:
    """What each address answers."""

    def __init__(self, models: Models):
        self._models = models
        self._files = dict(_files())
        self._pictures = _Slots(_PICTURES, "other pictures are being looked at")
        self._maps = _Slots(1, "another map is being computed")
        self._map_requests = _Slots(_PICTURES, "other maps are asked for")

    async def file(self, request: Request) -> Response:
        """The page itself, and what belongs to it."""
        name = request.path_params["name"] or "page.html"
        if name not in self._files:
            raise HTTPException(404, "there is nothing at this address")
        return Response(self._files[name], media_type=_TYPES[os.path.splitext(name)[1]])

    async def models(self, _request: Request) -> Response:
        """The networks, their cards, the samples and the limits."""
        sides = await run_in_threadpool(self._models.describe)
        samples = sorted(name for name in self._files if name.endswith(".jpg"))
        return JSONResponse({"sides": sides, "samples": samples, "max_bytes": MAX_BYTES})

    async def classify(self, request: Request) -> Response:
        """What the network makes of the picture that is the request's body."""
        with self._pictures:
            place, picture = self._place(request), await self._body(request)
            return JSONResponse(await self._run(self._models.classify, *place, picture))

    async def where(self, request: Request) -> Response:
        """The occlusion map: a line of JSON for each step, the map in the last one.

        It takes none of the pictures' places, or it would hardly get one under load.
        """
        with self._map_requests:
            place, picture = self._place(request), await self._body(request)
            with self._maps:  # if one is under way, it is said with a status
                steps = self._models.where(*place, picture)
                first = await self._run(next, steps)
        return StreamingResponse(self._steps(first, steps), media_type="application/x-ndjson")

    async def _steps(self, said, steps) -> AsyncIterator[str]:
        """Pictures are looked at between two steps. A browser that leaves ends it."""
        try:
            with self._maps:
                while "map" not in said:
                    yield json.dumps(said) + "\n"
                    said = await self._run(next, steps)
            yield json.dumps(said) + "\n"  # the next map need not wait until it has arrived
        except HTTPException as cause:
            yield json.dumps({"error": cause.detail}) + "\n"

    def _place(self, request) -> Tuple[int, int]:
        """(side, epoch) of a checkpoint that is there."""
        try:
            side, epoch = (int(request.query_params[name]) for name in ("side", "epoch"))
        except (KeyError, ValueError):
            raise HTTPException(400, "side and epoch have to say which checkpoint")
        if not self._models.has(side, epoch):
            raise HTTPException(
                404, f"there is no checkpoint of epoch {epoch}; load the page again"
            )
        return side, epoch

    async def _body(self, request) -> bytes:
        """The upload."""
        try:
            return await asyncio.wait_for(_read(request), _SECONDS)
        except asyncio.TimeoutError:
            raise HTTPException(408, f"the picture took more than {_SECONDS:g} s to arrive")
        except ClientDisconnect:
            raise HTTPException(400, "the picture did not arrive whole")

    async def _run(self, work: Callable, *args) -> Any:
        """What ``work(*args)`` returns in MXNet's thread."""
        future = asyncio.wrap_future(self._models.submit(work, *args))
        try:
            return await asyncio.wait_for(future, _SECONDS)
        except asyncio.TimeoutError:
            raise HTTPException(503, f"busy: no answer within {_SECONDS:g} s; try again")
        except UserError as error:
            raise HTTPException(422, str(error).replace("picture: ", "", 1))


async def _read(request):
    """The body's bytes, no more of them than the limit."""
    declared, body = int(request.headers.get("content-length", 0)), bytearray()
    async for part in request.stream():
        body += part
        if max(declared, len(body)) > MAX_BYTES:
            raise HTTPException(413, f"has more than {MAX_BYTES / 1e6:g} MB, which are the most")
    return bytes(body)


def _files():
    """(name, content) of each file that may be asked for."""
    for folder in ("", "samples/"):
        for name in os.listdir(os.path.join(_HERE, folder)):
            if os.path.splitext(name)[1] in _TYPES:
                with open(os.path.join(_HERE, folder, name), "rb") as file:
                    yield folder + name, file.read()


def application(models: Models, own_name: str) -> Callable:
    """The ASGI application, bound to the host that the user calls ``own_name``."""
    page = Page(models)
    routes = [
        Route("/models", page.models),
        Route("/classify", page.classify, methods=["POST"]),
        Route("/where", page.where, methods=["POST"]),
        Route("/{name:path}", page.file),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _refuse})

    async def guarded(scope: Dict, receive: Callable, send: Callable) -> None:
        async def with_headers(message):
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        request = Request(scope)
        cause = fault(request.method, request.headers, own_name)
        answer = JSONResponse({"error": cause}, 403) if cause else app
        await answer(scope, receive, with_headers)

    return guarded


async def _refuse(_request, cause):
    headers = {"Retry-After": "1"} if cause.status_code == 503 else cause.headers
    return JSONResponse({"error": cause.detail}, cause.status_code, headers)


class _Protocol(H11Protocol):
    """Closes a connection whose next request's headers do not arrive whole in time.

    uvicorn has a limit for connections that send nothing after an answer, and for no others.
    """

    _timer = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Any) -> None:
        super().connection_lost(exc)
        self._timer.cancel()

    def _watch(self):
        if self._timer is None or self._timer.cancelled():
            self._timer = self.loop.call_later(_SECONDS, self.transport.close)
        if self.cycle and not self.cycle.response_complete:
            self._timer.cancel()


def server(app: Callable) -> uvicorn.Server:
    """A server for it; ``run(sockets=[...])`` serves until SIGINT or SIGTERM."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            loop="asyncio",
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=3,
        )
    )
