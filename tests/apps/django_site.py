"""A Django site in one file: the same pages as flask_site.py."""

import hashlib
import os
import time

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

HERE = os.path.dirname(os.path.abspath(__file__))
GATE = os.path.join(HERE, "gate")

settings.configure(
    SECRET_KEY="not a secret",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["django.contrib.sessions"],
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    MIDDLEWARE=[
        "django.middleware.common.CommonMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
    ],
    USE_TZ=True,
)
django.setup()


def index(request):
    return HttpResponse(f"hello from {os.getpid()}\n")


@csrf_exempt
def login(request):
    request.session["user"] = request.POST["user"]
    request.session["visits"] = 0
    answer = redirect("/me")
    answer.status_code = 303
    return answer


def me(request):
    if "user" not in request.session:
        return HttpResponse("nobody", status=403)
    request.session["visits"] += 1
    return HttpResponse(f"{request.session['user']} {request.session['visits']}")


@csrf_exempt
def upload(request):
    file = request.FILES["file"]
    digest = hashlib.sha256()
    for data in file.chunks():
        digest.update(data)
    title = request.POST.get("title", "")
    return HttpResponse(f"{file.name} {title} {file.size} {digest.hexdigest()}")


@csrf_exempt
def raw(request):
    digest, size = hashlib.sha256(), 0
    while data := request.read(65536):
        digest.update(data)
        size += len(data)
    return HttpResponse(f"{size} {digest.hexdigest()}")


def stream(request):
    """The rest follows once the client has shown, by making the gate, that it has the start."""

    def pieces():
        yield "first\n"
        deadline = time.monotonic() + 5
        while not os.path.exists(GATE):
            if time.monotonic() > deadline:
                raise TimeoutError("the client did not get the first piece")
            time.sleep(0.002)
        for number in range(1000):
            yield f"{number}\n"

    return StreamingHttpResponse(pieces(), content_type="text/plain")


def page(request):
    return FileResponse(open(os.path.join(HERE, "page.txt"), "rb"))


def fail(request):
    raise RuntimeError("failed on purpose")


def missing(request, exception):
    return HttpResponse("our own 404", status=404)


def broken(request):
    return HttpResponse("our own 500", status=500)


handler404, handler500 = missing, broken
urlpatterns = [
    path("", index),
    path("login", login),
    path("me", me),
    path("upload", upload),
    path("raw", raw),
    path("stream", stream),
    path("page.txt", page),
    path("fail", fail),
]
app = get_wsgi_application()
