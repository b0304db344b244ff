"""The fault matrix: which function shows which row. For test_matrix.py and scripts/soak."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from . import (
    faults_abuse,
    faults_books,
    faults_death,
    faults_kernel,
    faults_lasting,
    faults_logs,
    faults_replace,
    faults_signals,
    faults_together,
)  # fmt: skip
from .trial import Trial


class Row(NamedTuple):
    number: str
    run: Callable[[Trial], None]
    short: float  # the scale of the test
    #: Besides the default, for the short form; rows that have some are run under all in scripts/soak, unless
    #: these are all that have what it is about.
    models: tuple[str, ...] = ()
    everywhere: bool = True
    #: It compares latencies, so the short form has the machine for itself.
    alone: bool = False
    #: Whether it is one for the long runs only.
    long: bool = False
    #: Whether it is one under ASGI, too: what is about threads is not.
    asgi: bool = True

    @property
    def name(self) -> str:
        return self.run.__name__


def _lasting(number: str, run: Callable[[Trial], None], short: float, *, long: bool = False) -> Row:
    """One of ASGI only, which has connections that last, under the models that have ASGI."""
    models = ("half-sync-half-async", "proactor")
    return Row(number, run, short, models, everywhere=False, long=long, asgi=False)


ROWS = (
    Row("1", faults_replace.reloads, 0.05, ("half-sync-half-async",)),
    Row("2", faults_replace.upgrades, 0.1),
    Row("3", faults_death.leaders_killed, 0.03, ("reactor",)),
    Row("3a", faults_death.leaders_stopped, 0.2),
    Row("3b", faults_books.killed_at_full_load, 0.03, ("proactor", "process-per-connection")),
    Row("3c", faults_books.killed_with_threads, 0.03, ("half-sync-half-reactive",), asgi=False),
    Row("4", faults_death.all_killed, 0.1, ("proactor",)),
    Row("5", faults_death.master_killed, 0.05),
    Row("6", faults_signals.random_signals, 0.08, ("half-sync-half-async",)),
    Row("7", faults_abuse.slow_senders, 0.1, alone=True),
    Row("7a", faults_abuse.slow_readers, 0.1, alone=True),
    Row("7b", faults_abuse.reset_storm, 0.1, ("half-sync-half-async", "proactor")),
    Row("8", faults_kernel.no_descriptors, 0.4),
    Row("9", faults_logs.full_disk, 0.05),
    Row("10", faults_replace.worn, 0.06),
    Row("11", faults_replace.stop_with_a_queue, 1),
    Row("12", faults_kernel.scribbled, 0.1),
    Row("15", faults_death.master_stopped, 0.1),
    Row("16", faults_death.workers_hit, 0.03),
    Row("17", faults_kernel.no_processes, 0.2),
    Row("18", faults_together.together, 0.009, ("half-sync-half-async", "proactor")),
    Row("18a", faults_together.together_threads, 0.009, asgi=False),
    _lasting("46", faults_lasting.lasting_reloads, 0.05),
    _lasting("46a", faults_lasting.lasting_upgrades, 0.1),
    _lasting("46b", faults_lasting.lasting_scale, 0.1),
    _lasting("46c", faults_lasting.lasting_recycle, 0.06),
    _lasting("47", faults_lasting.lasting_stop, 1),
    _lasting("48", faults_lasting.lasting_kills, 0.04),
    _lasting("49", faults_lasting.lasting_soak, 0.02, long=True),
)
