"""structlog's context variables: what is bound in a request is in its lines, and in no other's."""

import asyncio

import structlog
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import JSONResponse
from starlette.routing import Route

captured = []
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        lambda logger, method, event: captured.append(dict(sorted(event.items()))) or event,
        structlog.processors.JSONRenderer(sort_keys=True),
    ],
    logger_factory=structlog.ReturnLoggerFactory(),
)
log = structlog.get_logger()


class Binding(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        structlog.contextvars.bind_contextvars(path=request.url.path)
        log.info("before")
        response = await call_next(request)
        log.info("after", bound=sorted(structlog.contextvars.get_contextvars()))
        return response


async def bind(request):
    """In the handler, in a child, in a thread, behind the answer."""
    structlog.contextvars.bind_contextvars(name=request.path_params["name"])
    log.info("handler")
    with structlog.contextvars.bound_contextvars(inner=True):
        await asyncio.create_task(line("child"))
        await asyncio.to_thread(log.info, "thread")
    log.info("end")
    return JSONResponse({}, background=BackgroundTask(line, "background"))


async def line(text):
    await asyncio.sleep(0)
    log.info(text)


async def lines(request):
    """By request: what is behind an answer comes beside the next one's."""
    while count("background") < count("handler"):
        await asyncio.sleep(0.001)
    found, captured[:] = sorted(captured, key=lambda each: each["path"]), []
    return JSONResponse(found)


def count(event):
    return [each["event"] for each in captured].count(event)


app = Starlette(
    routes=[Route("/bind/{name}", bind), Route("/lines", lines)], middleware=[Middleware(Binding)]
)
