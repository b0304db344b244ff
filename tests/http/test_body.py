"""Bodies as scripted bytes: whole, byte by byte, in random pieces, with trailing data."""

from __future__ import annotations

import random

import pytest

from forkd.http.body import ChunkedBody, LengthBody
from forkd.http.limits import Refused
from forkd.http.response import LAST_CHUNK, chunk

SEED = random.randrange(1 << 32)


def pieces(raw: bytes, dice: random.Random) -> list[bytes]:
    out = []
    while raw:
        size = dice.randint(1, len(raw))
        out.append(raw[:size])
        raw = raw[size:]
    return out


def splits(raw: bytes) -> list[list[bytes]]:
    dice = random.Random(SEED)
    cuts = [[raw[:at], raw[at:]] for at in range(1, min(len(raw), 300))]
    bytewise = [raw[i : i + 1] for i in range(len(raw))]
    return [[raw], bytewise, *cuts, *(pieces(raw, dice) for _ in range(10))]


def read(body: LengthBody | ChunkedBody, split: list[bytes]) -> tuple[bytes, bool, bytes]:
    payload = []
    rest = []
    for piece in split:
        if body.done:
            rest.append(piece)
        else:
            payload.append(body.feed(piece))
    return b"".join(payload), body.done, body.leftover + b"".join(rest)


def test_length() -> None:
    assert LengthBody(0).done
    for split in splits(b"hellomore"):
        assert read(LengthBody(5), split) == (b"hello", True, b"more")
    for split in splits(b"hell"):
        assert read(LengthBody(5), split) == (b"hell", False, b"")
    body = LengthBody(2)
    assert (body.feed(b""), body.done) == (b"", False)


GOOD = [
    (b"0\r\n\r\n", b""),
    (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    (b"0005\r\nhello\r\n6\r\n world\r\n000\r\n\r\n", b"hello world"),
    (b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", b"0123456789" * 2),
    (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n"),
    (b"1;a\r\nx\r\n0;b=c\r\n\r\n", b"x"),
    (b"1; a;b= \r\n", None),
    (b'1;a="b;\\"\r c"\r\n', None),
    (b'1;a="b;\\" c\t\xff";d=e; f\r\nx\r\n0\r\n\r\n', b"x"),
    (b"1\r\nx\r\n0\r\nVary: *\r\nX:\r\n\r\n", b"x"),
    (b"000000000000000F\r\n" + b"y" * 15 + b"\r\n0\r\n\r\n", b"y" * 15),
]


@pytest.mark.parametrize(("raw", "payload"), [case for case in GOOD if case[1] is not None])
def test_chunked(raw: bytes, payload: bytes) -> None:
    for tail in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\r\n"):
        for split in splits(raw + tail):
            assert read(ChunkedBody(100), split) == (payload, True, tail), f"seed {SEED}"
    for end in range(len(raw)):
        assert not read(ChunkedBody(100), [raw[:end]])[1]


BAD = [
    *(raw for raw, payload in GOOD if payload is None),
    b"\r\n",
    b"x",
    b"-1\r\n",
    b"+1\r\n",
    b"0x1\r\n",
    b"1_0\r\n",
    b" 1\r\n",
    b"1 \r\n",
    b"1\t;a\r\n",
    b"1\n",
    b"1\r\r\n",
    b"1\rx",
    b"1;\r\n",
    b"1;;a\r\n",
    b"1;a=\r\n",
    b"1;a=b c\r\n",
    b'1;a="b\r\n',
    b"1;a\n",
    b"1;a\rb\r\n",
    b"1;a\x00\r\n",
    b"1;a\x7f\r\n",
    b"\xb2\r\n",
    b"1,\r\n",
    b"00000000000000001\r\n",  # 17 digits
    b"1\r\nxy",
    b"1\r\nx\n",
    b"1\r\nx\r\r",
    b"1\r\nx0\r\n",
    b"3\r\nfoo\r\n\r\n",
    b"0\r\n\n",
    b"0\r\nX\r\n\r\n",
    b"0\r\n: x\r\n\r\n",
    b"0\r\nX : y\r\n\r\n",
    b"0\r\nX: y\n\r\n",
    b"0\r\nX: y\r\n z\r\n\r\n",
    b"0\r\n X: y\r\n\r\n",
    b"0\r\nX: \x00\r\n\r\n",
    b"0\r\nX: a\rb\r\n\r\n",
    b"0\r\n\rX\r\n",
    b"0\r\nContent-Length: 1\r\n\r\n",
    b"0\r\ntransfer-encoding: chunked\r\n\r\n",
    b"0\r\nHOST: evil\r\n\r\n",
    b"1;" + b"a" * 1100,
    b"1;" + b"a" * 1100 + b"\r\n",
    b"0\r\n" + b"X: y\r\n" * 33 + b"\r\n",
    b"0\r\nX: " + b"y" * 5000,
    b"0\r\nX: " + b"y" * 5000 + b"\r\n\r\n",
]


@pytest.mark.parametrize("raw", BAD)
def test_chunked_refused(raw: bytes) -> None:
    outcomes = set()
    for start in (b"", b"1\r\nx\r\n"):
        for tail in (b"", b"\r\n0\r\n\r\nGET /canary HTTP/1.1\r\n\r\n"):
            for split in splits(start + raw + tail):
                with pytest.raises(Refused) as refused:
                    read(ChunkedBody(100), split)
                outcomes.add((refused.value.status, refused.value.reason))
    assert len(outcomes) == 1 and outcomes.pop()[0] == 400


def test_limit() -> None:
    raw = b"6\r\nabcdef\r\n5\r\nghijk\r\n0\r\n\r\n"
    assert read(ChunkedBody(11), [raw]) == (b"abcdefghijk", True, b"")
    for split in splits(raw):
        with pytest.raises(Refused) as refused:
            read(ChunkedBody(10), split)
        assert refused.value.status == 413
    with pytest.raises(Refused) as refused:
        ChunkedBody(1 << 30).feed(b"FFFFFFFFFFFFFFFF\r\n")
    assert refused.value.status == 413


def test_extensions_cannot_outweigh_the_payload() -> None:
    raw = (b"1;" + b"a" * 200 + b"\r\nx\r\n") * 200
    for split in ([raw], [raw[i : i + 7] for i in range(0, len(raw), 7)]):
        with pytest.raises(Refused) as refused:
            read(ChunkedBody(1000), split)
        assert refused.value.status == 400
    signed = b"10000;chunk-signature=" + b"a" * 64 + b"\r\n" + b"x" * 65536 + b"\r\n"
    assert len(read(ChunkedBody(1 << 30), [signed] * 300)[0]) == 65536 * 300


def test_random_chunks_in_random_pieces() -> None:
    dice = random.Random(SEED)
    for _ in range(200):
        parts = [dice.randbytes(dice.randint(1, 50)) for _ in range(dice.randint(0, 10))]
        raw = b"".join(chunk(part) for part in parts) + LAST_CHUNK + b"next"
        assert read(ChunkedBody(1000), pieces(raw, dice)) == (b"".join(parts), True, b"next"), SEED


def test_the_inside_of_a_large_chunk_is_not_copied() -> None:
    body = ChunkedBody(1 << 30)
    assert body.feed(b"100000\r\n") == b""
    block = bytes(65536)
    assert body.feed(block) is block
    assert LengthBody(1 << 20).feed(block) is block
