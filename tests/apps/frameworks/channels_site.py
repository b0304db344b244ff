import asyncio

import django
from asgiref.sync import sync_to_async
from channels.generic.http import AsyncHttpConsumer
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path, re_path

DONE = []
settings.configure(
    DEBUG=False, ALLOWED_HOSTS=["*"], SECRET_KEY="x", ROOT_URLCONF=__name__, INSTALLED_APPS=["channels"],
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
)  # fmt: skip
django.setup()


def view(request):  # in a thread
    return HttpResponse(f"view of {request.GET['name']}")


async def stream(request):
    async def pieces():
        for number in range(5):
            yield f"{number},"
            await asyncio.sleep(0.01)

    return StreamingHttpResponse(pieces())


def upload(request):
    return HttpResponse(str(request.FILES["file"].size))


async def work():
    await asyncio.sleep(0.05)
    await sync_to_async(DONE.append)(1)


class Background(AsyncHttpConsumer):
    """Channels' own: its task is at work when the answer is sent."""

    async def handle(self, body):
        self.scope["state"]["task"] = asyncio.create_task(work())
        TASKS.add(self.scope["state"]["task"])
        await self.send_response(200, b"answered")


TASKS = set()


async def done(request):
    return HttpResponse(str(len(DONE)))


async def fails(request):
    raise RuntimeError("failed on purpose")


class Echo(AsyncWebsocketConsumer):
    """By way of a group, which every connection of this worker is in."""

    groups = ("all",)

    async def receive(self, text_data=None, bytes_data=None):
        await self.channel_layer.send(self.channel_name, {"type": "told", "text": text_data})

    async def told(self, event):
        await self.send(text_data=f"echo of {event['text']}")


class EchoInThread(WebsocketConsumer):
    def receive(self, text_data=None, bytes_data=None):
        self.send(text_data=f"echo of {text_data}")


urlpatterns = [path(view.__name__, view) for view in (view, stream, upload, done, fails)]
app = ProtocolTypeRouter({
    "http": URLRouter([path("background", Background.as_asgi()), re_path("", get_asgi_application())]),
    "websocket": URLRouter([path("echo", Echo.as_asgi()), path("threads", EchoInThread.as_asgi())]),
})  # fmt: skip
