"""OpenTelemetry's ASGI instrumentation: which spans there are, and which belong to which."""

import asyncio

from opentelemetry import trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute


class Counting(SimpleSpanProcessor):
    open = 0

    def on_start(self, span, parent_context=None):
        self.open += 1

    def on_end(self, span):
        super().on_end(span)
        self.open -= 1


exporter = InMemorySpanExporter()
processor = Counting(exporter)
provider = TracerProvider()
provider.add_span_processor(processor)
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("site")


async def work(request):
    with tracer.start_as_current_span("work"):
        await asyncio.create_task(child())
        await asyncio.to_thread(thread)
    return PlainTextResponse(f"{trace.get_current_span().get_span_context().is_valid}")


async def child():
    with tracer.start_as_current_span("child"):
        await asyncio.sleep(0)


def thread():
    with tracer.start_as_current_span("thread"):
        pass


async def stream(request):
    async def pieces():
        for number in range(3):
            with tracer.start_as_current_span(f"piece {number}"):
                await asyncio.sleep(0)
            yield f"{number},"

    return StreamingResponse(pieces())


async def fails(request):
    raise RuntimeError("failed on purpose")


async def echo(socket):
    await socket.accept()
    await socket.send_text(await socket.receive_text())
    await socket.close()


async def spans(request):
    """By request, once all have ended: name, name of the parent, status, what is said of it. What is
    behind an answer runs beside the next request."""
    while processor.open:
        await asyncio.sleep(0.001)
    found, begun = list(exporter.get_finished_spans()), {}
    exporter.clear()
    for span in found:
        trace_id = span.context.trace_id
        begun[trace_id] = min(span.start_time, begun.get(trace_id, span.start_time))
    found.sort(key=lambda span: begun[span.context.trace_id])
    names = {span.context.span_id: span.name for span in found}
    shown = []
    for span in found:
        facts = {
            key: value for key, value in sorted(span.attributes.items())
            if key in ("http.method", "http.status_code", "http.target", "http.scheme", "http.flavor",
                       "http.request.method", "http.response.status_code", "url.path", "asgi.event.type")
        }  # fmt: skip
        parent = names.get(span.parent.span_id, "another's") if span.parent else None
        shown.append([span.name, span.kind.name, parent, span.status.status_code.name, facts])
    return JSONResponse(shown)


app = OpenTelemetryMiddleware(
    Starlette(routes=[
        Route("/work", work), Route("/stream", stream), Route("/fails", fails), Route("/spans", spans),
        WebSocketRoute("/echo", echo),
    ]),
    excluded_urls="spans",
)  # fmt: skip
