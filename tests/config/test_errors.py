"""The error tree: exit codes, and what the errors print."""

import errno
import pickle

import pytest

from forkd import errors
from forkd.errors import ConfigError, ForkdError, Problem, SystemCallError


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("ForkdError", 1),
        ("ConfigError", 2),
        ("NotRunning", 3),
        ("AppError", 1),
        ("BindError", 1),
        ("StartError", 1),
        ("SystemCallError", 1),
    ],
)
def test_exit_codes(name: str, code: int) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, ForkdError)
    assert kind.exit_code == code


def test_a_config_error_prints_every_problem() -> None:
    error = ConfigError(
        [Problem("a", "1", "must be 2", "flag --a"), Problem("b", "\x1b", "no", "x")]
    )
    assert str(error) == "a = '1': must be 2 (flag --a)\nb = '\\x1b': no (x)"
    assert pickle.loads(pickle.dumps(error)).problems == error.problems


def test_a_long_value_is_cut() -> None:
    assert len(str(Problem("a", "x" * 10_000, "no", "y"))) < 300


def test_a_system_call_error_names_the_call() -> None:
    error = SystemCallError("bind", "127.0.0.1:80", OSError(errno.EACCES, "ignored"))
    assert str(error) == "bind(127.0.0.1:80): EACCES: Permission denied"
    assert error.errno == errno.EACCES
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_system_call_error_without_errno() -> None:
    assert str(SystemCallError("recv", "fd 3", OSError("closed"))) == "recv(fd 3): closed"
