"""permessage-deflate against an oracle: the extension of `websockets`, as a client has it; and RFC 7692."""

from __future__ import annotations

import os
import random
import tracemalloc
import zlib

import pytest

from forkd.http import frames
from forkd.http.deflate import Agreed, Inflater, agree, deflated
from forkd.http.frames import BadFrame, Frame, FrameReader

from .test_frames import masked

extension = pytest.importorskip("websockets.extensions.permessage_deflate")
headers = pytest.importorskip("websockets.headers")
oracle = pytest.importorskip("websockets.frames")

OFFER = b"permessage-deflate; client_max_window_bits"  # a browser's
RSV1 = 0x40
TAIL = b"\x00\x00\xff\xff"


def agreed(offer: bytes = OFFER) -> Agreed:
    found = agree(offer)
    assert found is not None
    return found


def squeezed(data: bytes, bits: int = 12, mode: int = zlib.Z_SYNC_FLUSH) -> bytes:
    stream = zlib.compressobj(wbits=-bits)
    return (stream.compress(data) + stream.flush(mode)).removesuffix(TAIL)


def read(raw: bytes, most: int = 1 << 20, offer: bytes = OFFER) -> list[Frame]:
    return list(FrameReader(most, Inflater(agreed(offer))).feed(raw))


@pytest.mark.parametrize(
    ("offer", "response"),
    [
        (b"permessage-deflate", b"server_no_context_takeover; client_no_context_takeover"),
        (OFFER, b"server_no_context_takeover; client_max_window_bits=12"),
        (b'permessage-deflate;client_max_window_bits="10"',
         b"server_no_context_takeover; client_max_window_bits=10"),
        (OFFER + b"=15; client_no_context_takeover",
         b"server_no_context_takeover; client_max_window_bits=12; client_no_context_takeover"),
        (OFFER + b"; server_max_window_bits=10; server_no_context_takeover",
         b"server_no_context_takeover; server_max_window_bits=10; client_max_window_bits=12"),
        (OFFER + b"; server_max_window_bits=15",
         b"server_no_context_takeover; server_max_window_bits=12; client_max_window_bits=12"),
        (b"x-unknown, permessage-deflate; nothing=1, permessage-deflate; server_max_window_bits=8, " + OFFER,
         b"server_no_context_takeover; client_max_window_bits=12"),
        (b"", None), (b"x-webkit-deflate-frame", None), (b"permessage-deflate; x", None),
        (b"permessage-deflate; server_max_window_bits", None), (OFFER + b"=16", None), (OFFER + b"=7", None),
        (OFFER + b"=", None), (OFFER + b"=08", None), (OFFER + b"; client_max_window_bits=10", None),
        (b"permessage-deflate; server_no_context_takeover=1", None),
        (b"permessage-deflate; client_no_context_takeover; client_no_context_takeover", None),
        (b"permessage-deflate; server_max_window_bits=8", None),
    ],
)  # fmt: skip
def test_what_is_agreed_on(offer: bytes, response: bytes | None) -> None:
    found = agree(offer)
    assert (None if found is None else found.response) == (
        None if response is None else b"permessage-deflate; " + response
    )


def test_random_conversations_are_the_oracles() -> None:
    """Offers, and messages in fragments both ways, by the client's extension."""
    for seed in range(100):
        chance = random.Random(seed)
        client, found = _agreement(chance)
        if found is None:
            continue
        reader = FrameReader(1 << 20, Inflater(found))
        for _ in range(chance.randrange(1, 8)):
            data = _some(chance)
            sent = oracle.Frame(oracle.Opcode.BINARY, data)
            raw, whole = b"", client.encode(sent)
            cut = chance.randrange(len(whole.data) + 1)
            raw = masked(2, bytes(whole.data[:cut]), fin=False, reserved=RSV1 * whole.rsv1)
            raw += masked(9, b"") + masked(0, bytes(whole.data[cut:]))
            assert list(reader.feed(raw)) == [Frame(9, b""), Frame(2, data)], seed
            answer = _parsed(frames.message_frame(2, data, found))
            assert client.decode(answer).data == data, seed


def _agreement(chance: random.Random):  # type: ignore[no-untyped-def]
    bits = (None, *range(9, 16))
    factory = extension.ClientPerMessageDeflateFactory(
        server_no_context_takeover=chance.random() < 0.3, client_no_context_takeover=chance.random() < 0.3,
        server_max_window_bits=chance.choice(bits), client_max_window_bits=chance.choice((True, *bits)),
    )  # fmt: skip
    offer = headers.build_extension([(factory.name, factory.get_request_params())])
    found = agree(offer.encode())
    if found is None:
        return None, None
    ((name, parameters),) = headers.parse_extension(found.response.decode())
    assert name == factory.name
    return factory.process_response_params(parameters, []), found


def _some(chance: random.Random) -> bytes:
    words = [chance.randbytes(chance.randrange(1, 9)) for _ in range(chance.randrange(1, 20))]
    return b"".join(chance.choice(words) for _ in range(chance.choice((0, 5, 30, 300, 3000, 6000))))


def _parsed(raw: bytes):  # type: ignore[no-untyped-def]
    size = raw[1] & 127
    at = 2 if size < 126 else 4 if size == 126 else 10
    return oracle.Frame(oracle.Opcode(raw[0] & 15), raw[at:], rsv1=bool(raw[0] & RSV1))


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (masked(9, b"", reserved=RSV1), 1002), (masked(8, b"", reserved=RSV1), 1002),
        (masked(2, b"", reserved=0x60), 1002), (masked(2, b"", reserved=0x20), 1002),
        (masked(2, squeezed(b"a"), fin=False, reserved=RSV1) + masked(0, b"", reserved=RSV1), 1002),
        (masked(2, b"\xff\xff\xff", reserved=RSV1), 1007),
        (masked(1, squeezed(b"\xff" * 100), reserved=RSV1), 1007),
        (masked(1, squeezed(b"\xff" * 100), fin=False, reserved=RSV1), 1007),
        (masked(2, squeezed(bytes(1001)), reserved=RSV1), 1009),
        (masked(2, squeezed(bytes(600)) + TAIL, fin=False, reserved=RSV1) + masked(0, squeezed(bytes(401))),
         1009),
        (masked(2, squeezed(os.urandom(5000)), reserved=RSV1), 1009),
        (masked(2, squeezed(b"a", mode=zlib.Z_FINISH) * 2, reserved=RSV1), 1007),
    ],
)  # fmt: skip
def test_what_is_wrong_has_a_code(raw: bytes, code: int) -> None:
    with pytest.raises(BadFrame) as caught:
        read(raw, most=1000)
    assert caught.value.code == code


def test_a_bomb_takes_no_more_memory_than_a_message_may_have() -> None:
    bomb = squeezed(bytes(50 << 20))
    assert len(bomb) < 1 << 18
    tracemalloc.start()
    try:
        with pytest.raises(BadFrame) as caught:
            read(masked(2, bomb, reserved=RSV1))
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.code == 1009
    assert most < 6 << 20


def test_a_message_of_all_bytes_that_there_may_be_comes_also_when_compressing_made_it_longer() -> None:
    data = os.urandom(100_000)
    longer = squeezed(data)
    assert len(longer) > len(data)
    assert read(masked(2, longer, reserved=RSV1), most=100_000) == [Frame(2, data)]


def test_a_final_block_may_end_a_message() -> None:
    once = masked(1, squeezed(b"hello", mode=zlib.Z_FINISH) + b"\x00", reserved=RSV1)
    assert read(once * 3) == [Frame(1, "hello")] * 3


def test_what_a_client_refers_to_is_kept_where_that_was_agreed_on() -> None:
    text, stream, raw = os.urandom(3000), zlib.compressobj(wbits=-12), b""
    for _ in range(2):
        raw += masked(2, (stream.compress(text) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4], reserved=RSV1)
    assert read(raw) == [Frame(2, text)] * 2
    with pytest.raises(BadFrame):
        read(raw, offer=b"permessage-deflate")


def test_short_messages_and_noise_are_sent_as_they_are() -> None:
    found = agreed()
    assert deflated(b"x" * 63, 12) is None
    assert deflated(os.urandom(1000), 12) is None
    assert frames.message_frame(1, b"x" * 63, found) == frames.frame(1, b"x" * 63)
    assert frames.message_frame(1, b"x" * 64, found)[0] == 0xC1
    assert frames.message_frame(1, b"x" * 64, None)[0] == 0x81


def test_fragments_without_a_byte_take_no_memory() -> None:
    reader = FrameReader(1000)
    raw = masked(2, b"", fin=False) + masked(0, b"", fin=False) * 3_000
    assert list(reader.feed(raw)) == []
    tracemalloc.start()
    try:
        for _ in range(10):
            assert list(reader.feed(masked(0, b"", fin=False) * 3_000)) == []
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert kept < 10_000
