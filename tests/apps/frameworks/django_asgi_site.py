import asyncio

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path

DONE = []
TASKS = set()
settings.configure(
    DEBUG=False, ALLOWED_HOSTS=["*"], SECRET_KEY="x", ROOT_URLCONF=__name__,
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
)  # fmt: skip


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
    DONE.append(1)


async def background(request):
    task = asyncio.create_task(work())
    TASKS.add(task)
    return HttpResponse("answered")


async def done(request):
    return HttpResponse(str(len(DONE)))


async def fails(request):
    raise RuntimeError("failed on purpose")


urlpatterns = [
    path(view.__name__, view) for view in (view, stream, upload, background, done, fails)
]
app = get_asgi_application()
