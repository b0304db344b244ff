"""Sentry's ASGI middleware: which events and transactions there are, with what belongs to each request."""

import asyncio

import sentry_sdk
from sentry_sdk.integrations.asgi import SentryAsgiMiddleware
from sentry_sdk.transport import Transport
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

captured = []


class Kept(Transport):
    def capture_envelope(self, envelope):
        captured.extend(item.payload.json for item in envelope.items if item.type in ("event", "transaction"))


sentry_sdk.init(
    dsn="http://key@127.0.0.1/1", transport=Kept, traces_sample_rate=1.0, default_integrations=False,
    auto_enabling_integrations=False,
)


async def tag(request):
    """Tags and breadcrumbs of a request, in its children and threads, are in its events alone."""
    name = request.path_params["name"]
    sentry_sdk.get_isolation_scope().set_tag("name", name)
    sentry_sdk.add_breadcrumb(message=f"before {name}")
    with sentry_sdk.start_span(op="site", name="work"):
        await asyncio.create_task(message(f"child {name}"))
        await asyncio.to_thread(sentry_sdk.capture_message, f"thread {name}")
    return PlainTextResponse("tagged")


async def message(text):
    await asyncio.sleep(0)
    sentry_sdk.capture_message(text)


async def fails(request):
    sentry_sdk.add_breadcrumb(message="before the failure")
    raise RuntimeError("failed on purpose")


async def events(request):
    shown = []
    for event in captured:
        request_of = event.get("request", {})
        shown.append({
            "type": event.get("type", "event"), "message": event.get("message"),
            "transaction": event.get("transaction"), "tags": event.get("tags"),
            "breadcrumbs": [each["message"] for each in event.get("breadcrumbs", {}).get("values", ())],
            "raised": [each["type"] for each in event.get("exception", {}).get("values", ())],
            "request": [request_of.get("method"), request_of.get("query_string")],
            "spans": [each["op"] for each in event.get("spans", ())],
            "status": event.get("contexts", {}).get("trace", {}).get("status"),
        })  # fmt: skip
    captured.clear()
    return JSONResponse(shown)


app = SentryAsgiMiddleware(
    Starlette(routes=[Route("/tag/{name}", tag), Route("/fails", fails), Route("/events", events)])
)
