"""A Django project as a new user makes it, behind nginx with TLS: its login form posts over https."""

from __future__ import annotations

import http.cookiejar
import re
import shutil
import ssl
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from tests.process.conftest import Daemon
from tests.process.fronts import BY_NAME, front, reserved
from tests.process.test_fronts import changed

pytestmark = pytest.mark.skipif(
    shutil.which("nginx") is None or shutil.which("openssl") is None, reason="needs nginx and openssl"
)

#: What docs/proxies.md tells to set, and nothing of proxies.
SETTINGS = """
DEBUG = False
ALLOWED_HOSTS = ["hello.example", "127.0.0.1"]
SECURE_SSL_REDIRECT = True
SESSION_COOKIE_SECURE = True
CSRF_COOKIE_SECURE = True
LOGIN_REDIRECT_URL = "/me"
TEMPLATES[0]["DIRS"] = [BASE_DIR / "templates"]
"""
URLS = """
from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import LoginView
from django.http import HttpResponse
from django.urls import path

@login_required(login_url="/login")
def me(request):
    return HttpResponse(f"{request.user} {request.build_absolute_uri()} {request.META['REMOTE_ADDR']}")

urlpatterns = [path("login", LoginView.as_view(template_name="login.html")), path("me", me)]
"""
FORM = "<form method=post>{% csrf_token %}{{ form.as_p }}<button>in</button></form>"


def made(directory: Path) -> Path:
    """The project, with a user."""
    manage = [sys.executable, "-m", "django", "startproject", "mysite", str(directory)]
    subprocess.run(manage, check=True, timeout=60)
    with open(directory / "mysite/settings.py", "a") as settings:
        settings.write(SETTINGS)
    (directory / "mysite/urls.py").write_text(URLS)
    (directory / "templates").mkdir()
    (directory / "templates/login.html").write_text(FORM)
    code = "from django.contrib.auth.models import User; User.objects.create_user('ann', password='pw')"
    for command in (["migrate", "-v", "0"], ["shell", "-v", "0", "-c", code]):
        subprocess.run([sys.executable, "manage.py", *command], cwd=directory, check=True, timeout=120)
    return directory


def certificate(directory: Path) -> Path:
    path = directory / "hello.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=hello.example"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:hello.example"]
    command += ["-keyout", str(directory / "hello.key"), "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return path


def test_a_login_form_posts_over_https(service: Daemon) -> None:
    made(service.dir)
    pem = certificate(service.dir)
    service.start("-w", "1", "--health", "127.0.0.1:0", app="mysite.wsgi")
    text = changed(
        BY_NAME["nginx"], ("# listen 443 ssl;", "listen 127.0.0.1:{tls} ssl;"),
        ("# ssl_certificate     /etc/ssl/hello.pem;", f"ssl_certificate {pem};"),
        ("# ssl_certificate_key /etc/ssl/hello.key;", f"ssl_certificate_key {service.dir}/hello.key;"),
    )  # fmt: skip
    with reserved() as tls, front(BY_NAME["nginx"], service.dir / "front", service,
                                  text=text.replace("{tls}", str(tls))):  # fmt: skip
        context = ssl.create_default_context(cafile=str(pem))
        opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=context),
            urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()),
        )
        base = f"https://127.0.0.1:{tls}"
        page = opener.open(f"{base}/me", timeout=20)
        assert page.url == f"{base}/login?next=/me"
        found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.read().decode())
        assert found is not None
        fields = {"csrfmiddlewaretoken": found[1], "username": "ann", "password": "pw"}
        data = urllib.parse.urlencode(fields).encode()
        for origin, status in (("https://evil.example", 403), (base, 200)):
            post = urllib.request.Request(page.url, data, {"Origin": origin, "Referer": page.url})
            try:
                answer = opener.open(post, timeout=20)
            except urllib.error.HTTPError as error:
                answer = error  # type: ignore[assignment]
            assert answer.status == status
        assert answer.url == f"{base}/me"
        assert answer.read().decode() == f"ann {base}/me 127.0.0.1"
