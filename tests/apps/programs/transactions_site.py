"""Django's transactions under Channels: each request, task and consumer has its own."""

import asyncio
import os

import django
from asgiref.sync import sync_to_async
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.db import connection, models, transaction
from django.http import HttpResponse
from django.urls import path

settings.configure(
    DEBUG=False, ALLOWED_HOSTS=["*"], SECRET_KEY="x", ROOT_URLCONF=__name__, INSTALLED_APPS=["channels"],
    USE_TZ=True, DATABASES={"default": {
        "ENGINE": "django.db.backends.sqlite3", "NAME": f"transactions-{os.getpid()}.db",
        "ATOMIC_REQUESTS": True, "CONN_MAX_AGE": 60, "OPTIONS": {"timeout": 20},
    }},
)  # fmt: skip
django.setup()
events = []


class Row(models.Model):
    name = models.TextField()

    class Meta:
        app_label = "channels"


with connection.schema_editor() as editor:
    editor.create_model(Row)
connection.close()


def add(request, name):
    """In the transaction of its request (ATOMIC_REQUESTS)."""
    Row.objects.create(name=name)
    transaction.on_commit(lambda: events.append(f"committed {name}"))
    return HttpResponse(f"{connection.in_atomic_block}")


def add_and_fail(request):
    Row.objects.create(name="failed")
    transaction.on_commit(lambda: events.append("committed failed"))
    raise RuntimeError("failed on purpose")


@transaction.non_atomic_requests
async def nested(request):
    """A savepoint that is rolled back in a transaction that is not, in a thread."""

    def work():
        with transaction.atomic():
            Row.objects.create(name="outer")
            try:
                with transaction.atomic():
                    Row.objects.create(name="inner")
                    raise ValueError
            except ValueError:
                pass
        return connection.in_atomic_block

    left = await sync_to_async(work)()
    found = Row.objects.filter(name__in=["outer", "inner"])
    return HttpResponse(f"{left} {[row.name async for row in found]}")


@transaction.non_atomic_requests
async def side_by_side(request):
    """Coroutines of a request, and a cancelled one: no transaction is left open."""

    def work(name):
        with transaction.atomic():
            Row.objects.create(name=name)
        return connection.in_atomic_block

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(sync_to_async(work)(f"side {number}")) for number in range(5)]
    late = asyncio.create_task(sync_to_async(work)("cancelled"))
    await asyncio.sleep(0)
    late.cancel()
    try:
        await late
    except asyncio.CancelledError:
        pass
    number = await Row.objects.filter(name__startswith="side").acount()
    inside = await sync_to_async(lambda: connection.in_atomic_block)()
    return HttpResponse(f"{[task.result() for task in tasks]} {number} {inside}")


def rows(request):
    found = Row.objects.exclude(name="cancelled").order_by("id")
    return HttpResponse(f"{[row.name for row in found]} {events}")


class Consumer(AsyncWebsocketConsumer):
    async def receive(self, text_data=None, bytes_data=None):
        await self.send(text_data=str(await self.work(text_data)))

    @database_sync_to_async
    def work(self, name):
        try:
            with transaction.atomic():
                Row.objects.create(name=name)
                if name == "fails":
                    raise ValueError
        except ValueError:
            return "rolled back"
        return f"{Row.objects.filter(name=name).count()} {connection.in_atomic_block}"


urlpatterns = [
    path("add/<name>", add), path("add-and-fail", add_and_fail), path("nested", nested),
    path("side-by-side", side_by_side), path("rows", rows),
]  # fmt: skip
app = ProtocolTypeRouter({
    "http": get_asgi_application(), "websocket": URLRouter([path("consumer", Consumer.as_asgi())])
})  # fmt: skip
