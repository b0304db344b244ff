"""The rings of log lines: whole lines, in order, counted when lost; and what was written there by somebody
who should not have is never believed."""

from __future__ import annotations

import itertools
import os
import random
import signal
import struct

import pytest

from forkd.system.log_ring import ACCESS, ERROR, Reader, Rings, RingSink, Writer
from forkd.system.process import die_with_parent

WORKER_RING_BYTES = 1_048_576
HEADER_BYTES = 8


def rings() -> Rings:
    return Rings(3, 2)


def all_of(reader: Reader, index: int) -> bytes:
    found = b""
    while index in reader.filled():
        taken = reader.take(index, 1 << 16)
        assert reader.advance(taken, len(taken.text)) == len(taken.text)
        found += taken.text
    return found


def test_no_two_rings_share_a_byte() -> None:
    made = rings()
    places = sorted(made.place(index) for index in range(made.count))
    assert len(places) == 16
    for (start, size), (after, _) in itertools.pairwise(places):
        assert start + size <= after
    assert sum(places[-1]) == len(made.memory)
    sizes = {made.place(made.index(lane, ERROR))[1] for lane in (2, 4)}
    assert sizes == {WORKER_RING_BYTES}


def test_lines_come_out_as_they_went_in_round_and_round() -> None:
    made = rings()
    index = made.index(2, ACCESS)
    writer, reader, rng = Writer(made, index), Reader(made), random.Random(1)
    sent = got = b""
    for number in range(5000):
        line = b"%d %s\n" % (number, b"x" * rng.randrange(1, 2000))
        if not writer.put(7, line):
            assert reader.log_of(index) == 7
            got += all_of(reader, index)
            assert writer.put(7, line)
        sent += line
    assert got + all_of(reader, index) == sent
    assert made.heads[index] > 4 * WORKER_RING_BYTES
    assert reader.filled() == []


def test_a_reader_that_replaces_another_goes_on_where_that_was() -> None:
    made = rings()
    index = made.index(2, ERROR)
    writer, first = Writer(made, index), Reader(made)
    for line in (b"one\n", b"two\n", b"three\n"):
        assert writer.put(0, line)
    taken = first.take(index, 4)
    assert taken.text == b"one\n"
    first.advance(taken, 4)
    taken = first.take(index, 100)
    assert taken.text == b"two\nthree\n"  # and dies before they are written
    assert Reader(made).take(index, 100).text == b"two\nthree\n"
    first.advance(taken, 6)  # or in the middle of a line
    second = Reader(made)
    assert second.take(index, 100).text == b"ree\n"
    assert second.end_torn_line(index) == 1  # the next file is another one
    assert second.filled() == []


def test_a_line_that_is_half_in_the_old_file_is_not_in_the_new_one() -> None:
    made = rings()
    index = made.index(2, ACCESS)
    writer, reader = Writer(made, index), Reader(made)
    writer.put(2, b"one\ntwo\nthree\n")
    reader.advance(reader.take(index, 100), 4)
    assert reader.end_torn_line(index) == 0  # that was a whole one
    reader.advance(reader.take(index, 100), 2)
    assert reader.end_torn_line(index) == 1
    assert reader.take(index, 100).text == b"three\n"


def test_a_full_ring_loses_whole_lines_counts_them_and_tells_once() -> None:
    made = rings()
    sink, reader = RingSink(made, 2, ACCESS, 5), Reader(made)
    lost: list[int] = []
    sink.lost = lost.append
    sink.gap = lambda lines: b"gap %d\n" % lines
    lines = [b"%05d %s\n" % (n, b"x" * 93) for n in range(10_000)]  # 100 bytes each
    for line in lines:
        sink.write(line)
    fit = WORKER_RING_BYTES // (HEADER_BYTES + 100)
    assert sum(lost) == 10_000 - fit
    assert sink.waiting
    index = made.index(2, ACCESS)
    assert all_of(reader, index) == b"".join(lines[:fit])
    sink.retry()
    sink.write(b"after\n")
    assert all_of(reader, index) == b"gap %d\nafter\n" % (10_000 - fit)
    assert not sink.waiting


def test_a_writer_killed_at_any_instant_leaves_whole_lines() -> None:
    made = rings()
    index = made.index(2, ACCESS)
    reader = Reader(made)
    for turn in range(30):
        read, write = os.pipe()
        parent, pid = os.getpid(), os.fork()
        if pid == 0:
            try:
                die_with_parent(parent)  # else it writes for ever when the tests are broken off
                sink = RingSink(made, 2, ACCESS, 2)
                os.write(write, b"!")
                number = 0
                while True:
                    sink.write(b"%d %d %s\n" % (turn, number, b"x" * (number % 700)))
                    number += 1
            finally:
                os._exit(1)
        assert os.read(read, 1) == b"!"
        for _ in range(turn * 20):  # the reader has its turns meanwhile
            found = all_of_lines(reader, index)
            assert all(line.startswith(b"%d " % turn) for line in found)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        while index in reader.filled():
            all_of_lines(reader, index)
        os.close(read)
        os.close(write)


def all_of_lines(reader: Reader, index: int) -> list[bytes]:
    found: list[bytes] = []
    for _ in range(8):
        if index not in reader.filled():
            break
        taken = reader.take(index, 1 << 16)
        assert taken.text.endswith(b"\n")
        reader.advance(taken, len(taken.text))
        found += taken.text.splitlines(keepends=True)
    for line in found:
        _, number, text = line[:-1].split(b" ")
        assert text == b"x" * (int(number) % 700)
    return found


@pytest.mark.parametrize(
    "head", [1, 7, 1 << 20, (1 << 20) + 1, 1 << 40, (1 << 64) - 1, 1 << 63], ids=hex
)
def test_a_head_that_is_nonsense_costs_that_ring_only(head: int) -> None:
    made = rings()
    bad, good = made.index(2, ACCESS), made.index(4, ACCESS)
    Writer(made, good).put(2, b"good\n")
    made.heads[bad] = head
    reader = Reader(made)
    assert all_of(reader, good) == b"good\n"
    if reader.log_of(bad) is None:
        reader.forget(bad)
    while bad in reader.filled():  # it read as something: it ends all the same
        taken = reader.take(bad, 1 << 16)
        if taken.used:
            reader.advance(taken, len(taken.text))
        else:
            reader.forget(bad)
    writer = Writer(made, bad)
    assert writer.put(2, b"well again\n")
    assert all_of(reader, bad) == b"well again\n"


def test_a_writer_whose_head_was_overwritten_goes_on() -> None:
    made = rings()
    index = made.index(2, ERROR)
    writer, reader = Writer(made, index), Reader(made)
    assert writer.put(0, b"one\n")
    made.heads[index] = made.tails[index] = 1 << 50
    assert reader.log_of(index) is None
    reader.forget(index)
    assert writer.put(0, b"two\n")
    assert all_of(reader, index) == b"two\n"


def test_garbage_in_all_rings_is_bounded_work() -> None:
    """Whatever a worker stores there: nothing is read outside of the ring, and it comes to an end."""
    made, rng = rings(), random.Random(5)
    for _ in range(300):
        index = made.index(rng.choice((2, 3, 4, 5)), rng.choice((ERROR, ACCESS)))
        start, room = made.place(index)
        for _ in range(20):
            at = start + rng.randrange(room - 8)
            made.memory[at : at + 8] = struct.pack("=II", rng.choice((0, 1, 50, 1 << 31)), rng.randrange(4))
        made.heads[index] = rng.choice((rng.randrange(1 << 64), made.tails[index] + rng.randrange(1 << 19)))
        made.done[index] = rng.randrange(1 << 64)
        reader = Reader(made)
        for _ in range(1 << 16):
            if not reader.filled():
                break
            for filled in reader.filled():
                taken = reader.take(filled, 1 << 16)
                assert len(taken.text) <= room
                if taken.used:
                    reader.advance(taken, len(taken.text))
                else:
                    reader.forget(filled)
        assert reader.filled() == []
