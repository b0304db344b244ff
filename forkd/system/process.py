"""Processes: fork, watch and end them. Called by the master and by new children."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final, NamedTuple, NoReturn

from forkd.errors import SystemCallError
from forkd.system import forked
from forkd.system.originals import os, signal
from forkd.system.signal_sockets import SignalSockets

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")  # a second, in /proc


class CallError(OSError):
    """An OSError that knows which system call has failed."""

    def __init__(self, call: str, error: OSError) -> None:
        super().__init__(error.errno, error.strerror)
        self.call = call


@contextlib.contextmanager
def naming(call: str) -> Iterator[None]:
    """Turn an OSError in it into a CallError of that system call."""
    try:
        yield
    except CallError:
        raise
    except OSError as error:
        raise CallError(call, error) from error


def open_pidfd(pid: int) -> int:
    """Close-on-exec by itself (pidfd_open(2)). Raises CallError."""
    with naming("pidfd_open"):
        return os.pidfd_open(pid)


def require_signals() -> None:
    """Raises CallError where a policy denies the call that children are signalled by. They could be started
    all the same, and none could be ended."""
    pidfd = open_pidfd(os.getpid())
    try:
        with naming("pidfd_send_signal"):
            signal.pidfd_send_signal(pidfd, 0)
    finally:
        os.close(pidfd)


def make_memfd(name: str) -> int:
    """Raises CallError."""
    with naming("memfd_create"):
        return os.memfd_create(name, os.MFD_CLOEXEC)


def is_denied(error: OSError) -> bool:
    """Whether the kernel, or a policy (seccomp(2)), does not let this process make that call at all."""
    return error.errno in (errno.EPERM, errno.ENOSYS)


#: What to do about a call that is denied.
ALLOW_IT: Final = (
    "; the kernel or a policy denies this system call: allow it in the container's seccomp profile (those of "
    "old runtimes do not know it), or in SystemCallFilter="
)


def fork(child: Callable[[], NoReturn]) -> tuple[int, int]:
    """Fork; run `child` in the new process; return (pid, pidfd) in this one.

    Every signal is blocked across the fork: one that arrives between fork(2) and the child's own
    handlers would run the master's handlers in the child. `child` unblocks them when it is ready
    for them (see `unblock`), and must not return. Raises OSError (EAGAIN, ENOMEM, EMFILE) in the
    caller.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        spare = open_pidfd(os.getpid())  # fails before the fork where there is no room for a pidfd
        try:
            with forked.own():
                pid = os.fork()
        finally:
            os.close(spare)
        if pid == 0:
            try:
                child()
            finally:
                os._exit(70)  # a child must never run on into the master's code
        return pid, open_pidfd(pid)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


#: What is short, in the words of a reason, whichever process has found it out.
NO_PROCESSES = "may have no more processes and threads"


def why_no_fork(error: OSError, call: str = "fork(2)") -> str:
    """A message about a fork and what belongs to it, or about a thread's start, that failed; of EAGAIN, which
    says least, with the remedy (fork(2))."""
    if isinstance(error, CallError):
        name = errno.errorcode.get(error.errno or 0, f"errno {error.errno}")
        return f"{error.call}: {name}: {error.strerror}" + (ALLOW_IT if is_denied(error) else "")
    if error.errno != errno.EAGAIN:
        return f"{call.partition('(')[0]}: {error.strerror}" + (ALLOW_IT if is_denied(error) else "")
    return (
        f"{call}: EAGAIN: {os.strerror(errno.EAGAIN)}: the user of this process or its cgroup {NO_PROCESSES}"
        "; raise RLIMIT_NPROC (ulimit -u, LimitNPROC=) or pids.max (TasksMax=)"
    )


def fork_away(child: Callable[[], NoReturn]) -> tuple[int, int]:
    """As `fork`, but the new process is not ours: it has lost its parent, and is init's child. The
    pidfd is for signals; nothing reports its end. Raises OSError.

    systemd watches the exit of its own children only: a new master has to become one of them.
    """
    before = ctypes.c_int()
    ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    _adopt_orphans(False)
    try:
        return _fork_away(child)
    finally:
        _adopt_orphans(bool(before))


def become_subreaper() -> None:
    """From now on orphaned descendants are this process's children (PR_SET_CHILD_SUBREAPER)."""
    _adopt_orphans(True)


def _adopt_orphans(on: bool) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0)


def _fork_away(child: Callable[[], NoReturn]) -> tuple[int, int]:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as pipe:

        def between() -> NoReturn:
            pid = os.fork()
            if pid == 0:
                os.close(write)
                child()
            os.write(write, b"%d" % pid)
            os._exit(0)

        try:
            parent, pidfd = fork(between)
        finally:
            os.close(write)
        found = pipe.read()
    os.waitpid(parent, 0)
    os.close(pidfd)
    if not found:
        raise OSError(errno.EAGAIN, "the process in between could not fork")
    return int(found), open_pidfd(int(found))


def unblock() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def die_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Have the kernel SIGKILL this process when `parent` dies, also when it is stuck in C code; or send it
    that other signal.

    To be called after privileges were dropped: a change of credentials clears the setting
    (prctl(2), PR_SET_PDEATHSIG). Exits at once when the parent is already gone.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise SystemCallError("prctl", "PR_SET_PDEATHSIG", OSError(code, os.strerror(code)))
    if os.getppid() != parent:
        os._exit(0)


def enlarge_signal_stack() -> None:
    """Give this thread a large alternate signal stack (sigaltstack(2)).

    faulthandler installs a small one, and CPython's own handlers run on it (SA_ONSTACK): six
    signals that arrive at once nest, overflow it and end the process. To be called after
    `faulthandler.enable` and `register`.
    """
    global _signal_stack
    libc = ctypes.CDLL(None, use_errno=True)
    memory = mmap.mmap(-1, _SIGNAL_STACK_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    _signal_stack = (ctypes.c_char * _SIGNAL_STACK_BYTES).from_buffer(memory)  # which lives as long
    described = _StackT(ctypes.addressof(_signal_stack), 0, _SIGNAL_STACK_BYTES)
    if libc.sigaltstack(ctypes.byref(described), None) != 0:
        code = ctypes.get_errno()
        raise SystemCallError("sigaltstack", "", OSError(code, os.strerror(code)))


class _StackT(ctypes.Structure):
    """stack_t"""

    _fields_ = (
        ("ss_sp", ctypes.c_void_p),
        ("ss_flags", ctypes.c_int),
        ("ss_size", ctypes.c_size_t),
    )


_SIGNAL_STACK_BYTES = 1 << 20  # pages that are not used cost nothing
_signal_stack: ctypes.Array[ctypes.c_char] | None = None  # must live as long as the process


def reap(pid: int) -> int | None:
    """Collect the exit of a child of ours: its exit code, or minus the signal; None when alive."""
    found = collect(pid)
    return None if found is None else found.code


class Collected(NamedTuple):
    """A child of ours that has ended, and what it has used."""

    code: int  # exit code, or minus the signal
    peak: int  # the most bytes of memory that it had at once
    cpu_ns: int  # with its own children's that it has waited for


def collect(pid: int) -> Collected | None:
    """As `reap`, with what it has used."""
    try:
        found, status, usage = os.wait4(pid, os.WNOHANG)
    except ChildProcessError:
        return Collected(0, 0, 0)  # reaped elsewhere: all that is known is that it is gone
    if not found:
        return None
    cpu_ns = int((usage.ru_utime + usage.ru_stime) * 1e9)
    return Collected(os.waitstatus_to_exitcode(status), usage.ru_maxrss << 10, cpu_ns)


def send_signal(pidfd: int, number: int, sockets: SignalSockets | None = None) -> bool:
    """Signal a process by pidfd: never a stranger who got the same pid. Quiet when it is gone. False when
    this process may not signal it, nor has `sockets` that do."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        pass
    except PermissionError:
        return sockets is not None and sockets.send(number)
    return True


def may_signal(pid: int) -> bool:
    """Whether this user may signal it. Raises ProcessLookupError when it is gone, OverflowError for what
    cannot be a pid."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return False
    return True


def exit_reason(code: int) -> str:
    """A low-cardinality label for an exit code as `reap` returns it: "exit", "error", "SIGKILL"…"""
    if code >= 0:
        return "error" if code else "exit"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def how_ended(code: int) -> str:
    """An exit code as `reap` returns it, for a sentence."""
    return f"with exit code {code}" if code >= 0 else f"by {exit_reason(code)}"


def resident_bytes(pid: int) -> int:
    """Resident memory of `pid` in bytes (proc(5), statm); 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


def cpu_ns(pid: int) -> int:
    """The processor time of `pid`, all its threads and those children that it has waited for (proc(5), stat:
    utime, stime, cutime, cstime, in ticks); 0 when it is gone. What `collect` says at its end is not less."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            ticks = file.read().rpartition(b")")[2].split()[11:15]
    except OSError:
        return 0
    return sum(map(int, ticks)) * 1_000_000_000 // _TICKS


def parent(pid: int) -> int:
    """The parent of `pid` (proc(5), stat); 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def is_child(pid: int) -> bool:
    """Whether that process is a child of this one, and not collected yet (waitid(2): ECHILD)."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except (OSError, OverflowError):
        return False
    return True


def is_stopped(pid: int) -> bool:
    """Whether `pid` was stopped by a signal or a tracer."""
    return state(pid) == _STATES["T"]


def state(pid: int) -> str:
    """The state of `pid` (proc(5), stat), in words; empty when it has gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            letter = file.read().rpartition(")")[2].split()[0]
    except (OSError, IndexError, ValueError):
        return ""
    return _STATES.get(letter, "")


def unkillable(pid: int) -> str:
    """A sentence about a process that has not ended though it was killed: a thread of it waits in the kernel,
    perhaps for a disk or a server that does not answer."""
    try:
        doing = {state(int(task)) for task in os.listdir(f"/proc/{pid}/task")}
    except (OSError, ValueError):
        doing = set()
    stuck = _STATES["D"] in doing
    where = f"it is {_STATES['D']}" if stuck else "it is there still"
    return f"does not end by SIGKILL: {where}; it is left behind"


def threads() -> int:
    """The number of threads of this process, those of C code included where there is a /proc."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


def children(pid: int) -> list[int]:
    """The children of `pid` (proc(5)); none when it is gone."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(child) for child in file.read().split()]
    except (OSError, ValueError):
        return []


def end_child_of(pid: int, its_parent: int) -> None:
    """Kill a child of another process, if it still is one."""
    with contextlib.suppress(OSError):
        pidfd = open_pidfd(pid)
        if parent(pid) == its_parent:
            send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)


def title(pid: int) -> str:
    """Its command line, which is what a process of forkd's is called; empty when it is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").strip().decode("utf-8", "replace")
    except OSError:
        return ""


def describe(pid: int) -> str:
    """The process by pid and title, for a message."""
    command = title(pid)[:200]
    return f"pid {pid} ({command})" if command else f"pid {pid}"


_STATES = {
    "R": "running",
    "S": "asleep",
    "D": "in the kernel, where no signal reaches it",
    "T": "stopped",
    "t": "stopped",  # by a tracer
}


def raise_descriptor_limit() -> None:
    """Lift the soft limit of open files to the hard one, as nginx and systemd services expect."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        pass  # a convenience: the configured limits still hold


def close_all_but(keep: Collection[int]) -> None:
    """Close the descriptors of this process, but for some. Where there is no /proc to say which there are,
    those below 65536: the limit may be 2 ** 30, and to try so many takes minutes."""
    try:
        found: Iterable[int] = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        found = range(_MAX_TRIED_DESCRIPTORS)
    for fd in found:
        if fd not in keep:
            with contextlib.suppress(OSError):  # it is not open
                os.close(fd)


_MAX_TRIED_DESCRIPTORS = 1 << 16


def descriptor_limit() -> int:
    """Open files that this process, and each that it forks, may have (RLIMIT_NOFILE)."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


#: The same on all architectures that Python runs on, but for alpha (pidfd_getfd(2)).
_SYS_PIDFD_GETFD = 438


def take_descriptor(pidfd: int, fd: int) -> int:
    """A copy of a descriptor of another process, close-on-exec (pidfd_getfd(2)). Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    taken = int(libc.syscall(ctypes.c_long(_SYS_PIDFD_GETFD), pidfd, fd, 0))
    if taken < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return taken
