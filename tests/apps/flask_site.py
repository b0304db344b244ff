"""A Flask site: what the tests of this directory ask for. django_site.py has the same pages."""

import hashlib
import os
import time

from flask import Flask, Response, redirect, request, send_file, session

app = Flask(__name__)
app.secret_key = "not a secret"
HERE = os.path.dirname(os.path.abspath(__file__))
GATE = os.path.join(HERE, "gate")


@app.get("/")
def index():
    return f"hello from {os.getpid()}\n"


@app.post("/login")
def login():
    session["user"] = request.form["user"]
    session["visits"] = 0
    return redirect("/me", code=303)


@app.get("/me")
def me():
    if "user" not in session:
        return "nobody", 403
    session["visits"] += 1
    return f"{session['user']} {session['visits']}"


@app.post("/upload")
def upload():
    file = request.files["file"]
    digest, size = _digest(file.stream)
    return f"{file.filename} {request.form.get('title', '')} {size} {digest}"


@app.route("/raw", methods=["POST", "PUT"])
def raw():
    digest, size = _digest(request.stream)
    return f"{size} {digest}"


def _digest(stream):
    digest, size = hashlib.sha256(), 0
    while data := stream.read(65536):
        digest.update(data)
        size += len(data)
    return digest.hexdigest(), size


@app.get("/stream")
def stream():
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

    return Response(pieces(), mimetype="text/plain")


@app.get("/page.txt")
def page():
    return send_file(os.path.join(HERE, "page.txt"))


@app.get("/fail")
def fail():
    raise RuntimeError("failed on purpose")


@app.errorhandler(404)
def missing(error):
    return "our own 404", 404


@app.errorhandler(500)
def broken(error):
    return "our own 500", 500
