"""Every raw HTTP case, the project's own and those of the corpora, judged without a socket.

The corpora are others' test data, beside the checkout and no part of it; a clone without them says so at the
end of a run, and has the project's own cases (cases.py), which cover the same rules.

`serve` stands for the WSGI session around an echo app; `judge` is that of the corpus's own
run_corpus.py, verdict by verdict.
"""

from __future__ import annotations

import base64
import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from forkd.http.body import ChunkedBody, LengthBody
from forkd.http.request import Limits, Refused, Request, RequestParser
from tests.conftest import CORPUS

from .cases import OWN

FILES = ("gunicorn.jsonl", "llhttp.jsonl", "desync_guardian.jsonl")
# Rows that RFC 9112 or plain time decides against the corpus; each must fail just so.
KNOWN = {
    # A second request, in HTTP/1.1, without Host: 400 by RFC 9112 3.2. The corpus marks such rows
    # as `missing_host`, but looked at the first request only, which is HTTP/1.0.
    "gunicorn/valid/022": "not accepted",
    # Content-Length 17914 before 8599 bytes: waits for the rest, until the body's deadline.
    "gunicorn/valid/099": "hangs",
    # A request line of 4113 bytes: above gunicorn's default, not above what RFC 9112 3 recommends, nor above
    # forkd's (docs/decisions/0036-limits.md).
    "gunicorn/invalid/006": "accepted",
}
SEED = int(os.environ.get("FORKD_SEED") or random.randrange(1 << 32))


def corpora() -> Iterator[dict[str, Any]]:
    for name in FILES:
        path = CORPUS / name
        if path.exists():
            for line in path.read_text().splitlines():
                case = json.loads(line)
                if not case.get("config"):
                    yield case


CORPORA = list(corpora())
CASES = [*OWN, *CORPORA]


@dataclass
class Outcome:
    """What a client sees: statuses in order, whether it was closed; and what the app saw."""

    statuses: list[int] = field(default_factory=list)
    served: list[tuple[str, bytes, bytes]] = field(default_factory=list)  # method, path, body
    closed: bool = False


def serve(pieces: list[bytes]) -> Outcome:
    out = Outcome()
    limits = Limits()
    parser = RequestParser(limits)
    request: Request | None = None
    body: ChunkedBody | LengthBody = LengthBody(0)
    payload = b""
    try:
        for piece in pieces:
            data = piece
            while True:
                if request is None:
                    request = parser.feed(data)
                    if request is None:
                        break
                    data = parser.leftover
                    body = (
                        ChunkedBody(limits.body)
                        if request.chunked
                        else LengthBody(request.length or 0)
                    )
                    payload = b""
                if not body.done:
                    payload += body.feed(data)
                    if not body.done:
                        break
                    data = body.leftover
                out.statuses.append(200)
                out.served.append((request.method, request.path, payload))
                if not request.keep_alive:
                    out.closed = True
                    return out
                request = None
                if not data:
                    break
    except Refused as refused:
        assert refused.status in (400, 413, 414, 417, 431, 501, 505)
        out.statuses.append(refused.status)
        out.closed = True
    return out


def judge(case: dict[str, Any], out: Outcome) -> list[str]:
    served = [status for status in out.statuses if status < 400]
    bad = [status for status in out.statuses if status >= 400]
    verdict, ok = case["verdict"], case.get("ok", 0)
    problems = []
    if case.get("canary") and any(path == b"/canary" for _, path, _ in out.served):
        problems.append("CANARY EXECUTED")
    if verdict == "accept":
        if len(served) < ok or bad:
            problems.append("not accepted")
        if "body_hex" in case and out.served and out.served[-1][2].hex() != case["body_hex"]:
            problems.append("body differs")
        expect = case.get("expect") or []
        if len(expect) == len(out.served) and not bad:
            for (_, _, payload), wanted in zip(out.served, expect, strict=True):
                if payload != base64.b64decode(wanted["body_b64"]):
                    problems.append("body differs")
        if (
            case.get("missing_host")
            and "b64_host" not in case
            and problems == ["not accepted"]
            and 400 in bad
        ):
            problems = []  # the source asks for no Host; RFC 9112 3.2 does
    elif verdict == "reject":
        if len(served) > ok:
            problems.append("accepted")
        elif not bad and not out.closed:
            problems.append("hangs")
    elif verdict == "may_close":
        if served and not out.closed:
            problems.append("accepted and kept open")
    elif verdict == "incomplete":
        if len(served) > ok:
            problems.append("accepted incomplete")
    elif verdict in ("nosmuggle", "may"):
        if not out.statuses and not out.closed:
            problems.append("hangs")
    else:
        assert verdict == "review"
    return problems


def split(raw: bytes, mode: str, key: str) -> list[bytes]:
    if mode == "whole":
        return [raw]
    if mode == "bytes":
        return [raw[i : i + 1] for i in range(len(raw))]
    dice = random.Random(f"{SEED} {key}")
    pieces = []
    while raw:
        size = dice.randint(1, max(1, len(raw) // 3))
        pieces.append(raw[:size])
        raw = raw[size:]
    return pieces


MODES = pytest.mark.parametrize("mode", ["whole", "bytes", "random"])


def failures(cases: list[dict[str, Any]], mode: str) -> list[tuple[Any, ...]]:
    failed = []
    for case in cases:
        raw = base64.b64decode(case.get("b64_host", case["b64"]))
        for turn in range(5 if mode == "random" else 1):
            out = serve(split(raw, mode, f"{case['id']} {turn}"))
            problems = judge(case, out)
            if out != serve([raw]):
                problems.append("differs from whole")
            if problems != ([KNOWN[case["id"]]] if case["id"] in KNOWN else []):
                failed.append((case["id"], case["verdict"], problems, out.statuses, out.closed))
    return failed


@MODES
def test_cases_of_our_own(mode: str) -> None:
    print(f"FORKD_SEED={SEED}")
    assert len({case["id"] for case in OWN}) == len(OWN) > 100
    failed = failures(OWN, mode)
    assert not failed


@pytest.mark.skipif(not CORPORA, reason=f"no corpus in {CORPUS} (set FORKD_CORPUS)")
@MODES
@pytest.mark.parametrize("name", FILES)
def test_corpus(name: str, mode: str) -> None:
    print(f"FORKD_SEED={SEED}")
    group = {"desync_guardian.jsonl": "guardian"}.get(name, name.removesuffix(".jsonl"))
    cases = [case for case in CORPORA if case["id"].split("/")[0] == group]
    failed = failures(cases, mode)
    print(f"{name} {mode}: {len(cases)} cases, {len(failed)} failed beyond KNOWN")
    assert len(cases) > 100
    assert not failed
