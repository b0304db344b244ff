"""Sources.load: precedence, every problem at once, paths, and what a reload can change."""

import argparse
import dataclasses
import json
import os
import re
from pathlib import Path

import pytest

from forkd.config import (
    OPTIONS,
    Config,
    cpus,
    unreloadable,
)
from forkd.config.options import Option, Workers
from forkd.config.paths import default_runtime_dir, resolve_paths
from forkd.config.sources import Sources, add_flags, settled
from forkd.errors import ConfigError, Problem
from forkd.system.address import Address


def sources(*argv: str, environ: dict[str, str] | None = None) -> Sources:
    parser = argparse.ArgumentParser(prog="forkd start", allow_abbrev=False)
    add_flags(parser)
    return Sources.gather(parser.parse_args(argv), {"XDG_RUNTIME_DIR": "/run/u"} | (environ or {}))


def problems(of: Sources) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        of.load()
    assert caught.value.exit_code == 2
    return list(caught.value.problems)


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


# -- defaults and precedence


def test_defaults() -> None:
    config = sources().load()
    assert config.app is None
    assert config.bind == (Address("tcp", "127.0.0.1", 8000),)
    assert config.admin == Address("tcp", "127.0.0.1", 9464)
    assert (config.keep_alive, config.umask, config.limit_request_head) == (75.0, None, 65536)
    assert (config.access_log, config.error_log, config.foreground) == (None, None, False)
    assert config.workers.min == config.workers.max >= 1
    empty = Config()
    differs = {
        f.name
        for f in dataclasses.fields(Config)
        if getattr(empty, f.name) != getattr(config, f.name)
    }
    assert differs == {"pidfile", "control", "chdir"}
    assert config.chdir == os.getcwd()


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = write(
        tmp_path / "f.toml",
        "keep-alive = 1\nheader_timeout = 1\nbody-timeout = 1\nforeground = true\n",
    )
    environ = {"FORKD_KEEP_ALIVE": "2", "FORKD_HEADER_TIMEOUT": "2", "FORKD_CONFIG": file}
    config = sources("--keep-alive", "3", "--no-foreground", environ=environ).load()
    assert (config.keep_alive, config.header_timeout, config.body_timeout) == (3.0, 2.0, 1.0)
    assert config.write_timeout == 60.0
    assert config.foreground is False


def test_a_stronger_list_replaces_a_weaker() -> None:
    config = sources("-b", ":1", "-b", ":2", environ={"FORKD_BIND": ":3,:4"}).load()
    assert [a.port for a in config.bind] == [1, 2]
    assert [a.port for a in sources(environ={"FORKD_BIND": ":3,:4"}).load().bind] == [3, 4]


def test_the_config_flag_beats_its_variable(tmp_path: Path) -> None:
    one = write(tmp_path / "one.toml", "timeout = 1")
    two = write(tmp_path / "two.toml", "timeout = 2")
    assert sources("-c", one, environ={"FORKD_CONFIG": two}).load().timeout == 1.0


@pytest.mark.parametrize("row", OPTIONS, ids=lambda row: row.name)
def test_every_option_is_read_from_everywhere(row: Option, tmp_path: Path) -> None:
    given = {
        "app": "m:a", "name": "n", "interface": "stream", "chdir": "/d", "bind": "fd://7",
        "backlog": "7", "model": "reactor", "io": "poll", "accept": "exclusive", "workers": "1:2",
        "storage": "shm:4m", "drain_streams": "text/event-stream",
        "request_task": "real",
        "asgi_extensions": "!http.response.pathsend",
        "foreground": "true", "pidfile": "/p.pid", "control": "/c.sock", "user": "u", "group": "g",
        "umask": "077", "admin": "none", "error_log": "-", "log_level": "debug",
        "access_log_format": "%{client}",
        "access_log": "-", "log_format": "json", "handoff": "task", "threads": "7",
        "dispatch": "competition",
        "io_fallback": "false",
        "defer_accept": "false",
        "proxy_protocol": "true", "early_hints": "true",
        "request_ids": "true", "server_timing": "true",
        "native": "false",
        "preload": "true",
        "new_privileges": "true",
        "hooks": "project.hooks",
        "admin_token_file": "/token",
        "admin_queries": "true",
        "max_workers": "500",
        "forwarded_allow": "10.0.0.0/8",
        "forwarded_untrusted": "pass",
        "socket_mode": "660", "socket_owner": "u", "socket_group": "g", "lifespan": "on",
        "lifespan_context": "false", "loop": "asyncio", "root_path": "/api",
        "ws_origins": "https://a.example, http://b:8000", "ws_deflate": "true",
    }  # fmt: skip
    text = given.get(row.attr, "777")
    extra = ["--max-requests", "1"] if row.attr == "max_requests_jitter" else []
    extra = ["--max-age", "1"] if row.attr == "max_age_jitter" else extra
    if row.positional:
        argv = [text]
    elif isinstance(row.default, bool):
        argv = [row.flags[0] if text == "true" else row.flags[0].replace("--", "--no-")]
    else:
        argv = [row.flags[0], text]
    file = write(tmp_path / "f.toml", f"{row.attr} = {json.dumps(text)}")
    by_flag = sources(*argv, *extra).load()
    by_environ = sources(*extra, environ={row.variable: text}).load()
    by_file = sources("-c", file, *extra).load()
    assert by_flag == by_environ == by_file
    assert getattr(by_flag, row.attr) != getattr(sources().load(), row.attr)


def test_flags_of_true_or_false_take_the_words_of_the_file() -> None:
    given = "start --preload off --native=Yes --lifespan-context NO app:app --ws-deflate on -b off"
    flags = "start --no-preload --native --no-lifespan-context app:app --ws-deflate -b off"
    assert settled(given.split()) == flags.split()
    for untouched in ("--preload app:app", "--preload=maybe", "off", "--workers off", ""):
        assert settled(untouched.split()) == untouched.split()


def test_a_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    source = sources("-c", write(file, "timeout = 1"))
    assert source.load().timeout == 1.0
    file.write_text("timeout = 2")
    assert source.load().timeout == 2.0


def test_sources_survive_json(tmp_path: Path) -> None:
    source = sources("m:a", "-f", "-b", ":1", environ={"FORKD_TIMEOUT": "3"})
    again = Sources(**json.loads(json.dumps(dataclasses.asdict(source))))
    assert again == source
    assert again.load() == source.load()


# -- problems


def test_every_problem_at_once(tmp_path: Path) -> None:
    file = write(
        tmp_path / "f.toml",
        "# comment\ntimeout = -1\nkeep-alve = 3\n\n"
        "backlog = 'x'\nzzz = 1\n[http]\nbody-buffer = 1\n",
    )
    environ = {"FORKD_WORKERS": "9:1", "FORKD_WORKRES": "2", "FORKD_CONFIG": file}
    found = problems(sources("--log-level", "loud", "-k", "agsi", environ=environ))
    assert [(p.key, p.value, p.where) for p in found] == [
        ("keep-alve", "3", f"file {file} line 3"),
        ("zzz", "1", f"file {file} line 6"),
        ("http", "{'body-buffer': 1}", f"file {file} line 7"),
        ("timeout", "-1", f"file {file} line 2"),
        ("backlog", "x", f"file {file} line 5"),
        ("workers", "9:1", "environment FORKD_WORKERS"),
        ("log-level", "loud", "flag --log-level"),
        ("interface", "agsi", "flag --interface"),
    ]
    by_key = {p.key: p.allowed for p in found}
    assert by_key["keep-alve"] == "no such option; did you mean keep-alive?"
    assert by_key["zzz"] == "no such option"
    assert "top level" in by_key["http"]
    assert by_key["backlog"] == "must be a whole number from 1 to 65535"
    assert by_key["log-level"] == "must be debug, info, warning or error"


def test_what_another_server_calls_it_is_answered_where_it_stands(tmp_path: Path) -> None:
    file = write(
        tmp_path / "f.toml", 'host = "::"\nworker_class = "sync"\nlog-level = "critical"\nreload = true\n'
    )
    environ = {"FORKD_PORT": "80", "FORKD_PID": "/x", "FORKD_KEYFILE": "k", "FORKD_CONFIG": file}
    found = {p.key: p.allowed for p in problems(sources(environ=environ))}
    ignored = {words.split(":")[0]: words for words in sources(environ=environ).unknown_variables()}
    assert found["host"] == (
        'no such option; a flag of uvicorn and granian; here it is bind = "HOST:PORT"'
    )
    assert 'here it is model = "NAME"' in found["worker_class"]
    assert found["log-level"] == "must be debug, info, warning or error; write error"
    assert "forkd reload" in found["reload"]
    assert "here it is FORKD_BIND=HOST:PORT; it is ignored" in ignored["environment FORKD_PORT"]
    assert "here it is FORKD_PIDFILE=PATH; it is ignored" in ignored["environment FORKD_PID"]
    assert "not here, because forkd speaks plain HTTP" in ignored["environment FORKD_KEYFILE"]


@pytest.mark.parametrize(
    "text", ["*", "https://*.a.example", "https://a.example/", "a.example", "https://bücher.example", "null"]
)
def test_an_origin_that_no_browser_sends_is_wrong(text: str) -> None:
    (found,) = problems(sources("--ws-origins", f"https://b.example, {text}"))
    assert found.allowed.startswith("must be origins as https://HOST or https://HOST:PORT, with commas")
    (found,) = problems(sources("--ws-origins", "*"))
    assert found.allowed.endswith("; pages of any origin may by default: leave it out")


@pytest.mark.parametrize(
    "text", ["*/*", "text/*", "text/event-stream;charset=utf-8", "/updates/*", "/updates?all", "/\xe9", "mcp"]
)
def test_a_stream_that_there_cannot_be_is_wrong(text: str) -> None:
    (found,) = problems(sources("--drain-streams", f"!/mcp, {text}"))
    assert found.allowed.startswith("must be media types without parameters, and paths")


@pytest.mark.parametrize("text", ["/", "!/", "/a%20b;c/, !text/plain", "application/vnd.a+json,/b"])
def test_streams_that_there_can_be(text: str) -> None:
    assert sources("--drain-streams", text).load().drain_streams == text


def test_an_extension_that_there_is_not_is_answered_with_those_that_there_are() -> None:
    (found,) = problems(sources("--asgi-extensions", "pathsend"))
    assert "http.response.pathsend" in found.allowed
    (found,) = problems(sources("--loop", "rloop"))
    assert found.allowed == "must be auto, asyncio or uvloop; write auto"


@pytest.mark.parametrize(("text", "seconds"), [("1h", 3600.0), ("1.5 h", 5400.0), ("2d", 172800.0)])
def test_hours_and_days(text: str, seconds: float) -> None:
    assert sources("--timeout", text).load().timeout == seconds


def test_too_many_days_are_answered() -> None:
    (found,) = problems(sources("--timeout", "12d"))
    assert found.allowed == (
        "must be seconds from 0 to 1000000, or with a unit: 500ms, 2s, 5m, 1h, 1d"
    )


def test_an_overruled_wrong_value_is_reported(tmp_path: Path) -> None:
    file = write(tmp_path / "f.toml", "timeout = 'soon'")
    found = problems(sources("-c", file, "--timeout", "1"))
    assert [p.where for p in found] == [f"file {file} line 1"]


def test_a_wrong_application(tmp_path: Path) -> None:
    for wrong in ("app:", ":app", "", "a\tb"):
        assert [p.where for p in problems(sources(wrong))] == ["argument APP"]


def test_a_module_alone_is_an_application() -> None:
    assert sources("mysite.wsgi").load().app == "mysite.wsgi"


def test_both_spellings_in_one_file(tmp_path: Path) -> None:
    file = write(tmp_path / "f.toml", "keep-alive = 1\nkeep_alive = 2\n")
    (found,) = problems(sources("-c", file))
    assert (found.key, found.where) == ("keep_alive", f"file {file} line 2")


def test_quoted_keys_and_multi_line_values_have_lines(tmp_path: Path) -> None:
    file = write(tmp_path / "f.toml", "bind = [\n  'x',\n]\n\n  'io' = 1.5\n")
    assert [p.where[-1] for p in problems(sources("-c", file))] == ["1", "5"]


def test_malformed_file_and_a_wrong_flag(tmp_path: Path) -> None:
    file = write(tmp_path / "f.toml", "timeout = 1\nworkers = = 2\n")
    toml, flag = problems(sources("-c", file, "--backlog", "x"))
    assert (toml.key, toml.value) == ("config", file)
    assert "line 2, column 11" in toml.allowed
    assert flag.key == "backlog"


def test_unreadable_files(tmp_path: Path) -> None:
    (missing,) = problems(sources("-c", str(tmp_path / "none.toml")))
    assert missing.allowed == "ENOENT: No such file or directory"
    (directory,) = problems(sources("-c", str(tmp_path)))
    assert directory.allowed.startswith("EISDIR")
    (tmp_path / "latin").write_bytes(b"name = '\xe9'")
    (latin,) = problems(sources("-c", str(tmp_path / "latin")))
    assert "utf-8" in latin.allowed


def test_an_unknown_flag_kept_from_another_version() -> None:
    (found,) = problems(Sources(flags={"worker": "1"}))
    assert found.allowed == "no such option; did you mean --workers?"


LINKS = {
    "FORKD_SERVICE_HOST": "10.0.0.1",
    "FORKD_SERVICE_PORT": "80",
    "FORKD_SERVICE_PORT_HTTP": "80",
    "FORKD_PORT": "tcp://10.0.0.1:80",
    "FORKD_PORT_80_TCP_ADDR": "10.0.0.1",
    "FORKD_WEB_SERVICE_HOST": "10.0.0.2",
    "FORKD_WEB_SERVICE_PORT": "80",
    "FORKD_WEB_SERVICE_PORT_HTTPS_ALT": "443",
    "FORKD_WEB_PORT": "tcp://10.0.0.2:80",
    "FORKD_WEB_PORT_80_TCP": "tcp://10.0.0.2:80",
    "FORKD_WEB_PORT_80_TCP_PROTO": "tcp",
    "FORKD_A_B_PORT_53_UDP": "udp://10.0.0.3:53",
    "FORKD_A_B_PORT_53_UDP_PORT": "53",
    "FORKD_SS7_PORT_2905_SCTP": "sctp://10.0.0.4:2905",
    "FORKD_SS7_PORT_2905_SCTP_ADDR": "10.0.0.4",
    "FORKD_BIND_SERVICE_HOST": "10.0.0.5",  # a Service called forkd-bind
    "FORKD_WORKERS_PORT": "tcp://10.0.0.6:80",
}


@pytest.mark.parametrize("name", LINKS)
def test_links_to_services_are_no_options(name: str) -> None:
    """Kubernetes sets them for each Service of a namespace, whatever it is called."""
    given = sources(environ={name: LINKS[name]})
    assert given.load() == sources().load()
    assert given.unknown_variables() == []


def test_variables_that_are_no_options() -> None:
    given = sources(environ={"FORKD_INTERNAL_FD": "3", "FORKD_TIMEOUT": "", "FORKD_NONE": ""})
    assert given.load() == sources().load()
    assert given.unknown_variables() == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("FORKD_WORKRES", "2", "no such option; did you mean FORKD_WORKERS?; it is ignored"),
        ("FORKD_ZZZ", "hunter2", "no such option; it is ignored"),
        ("FORKD_PORT", "80", "no such option"),  # no link: its value would be tcp://...
        ("FORKD_WEB_PORT", "8000", "no such option"),
        ("FORKD_HOST", "10.0.0.1", "no such option"),
    ],
)
def test_an_unknown_variable_is_a_warning(name: str, value: str, words: str) -> None:
    given = sources(environ={name: value, "FORKD_BACKLOG": "7"})
    assert given.load().backlog == 7
    (found,) = given.unknown_variables()
    assert found.startswith(f"environment {name}: {words}")
    assert value not in found.removeprefix(f"environment {name}")  # it may be a secret


# -- max-workers


@pytest.mark.parametrize("flags", ["", "-w auto"])
@pytest.mark.parametrize("concurrency", ["", "9"])
def test_what_nobody_has_counted_out_is_bounded(
    monkeypatch: pytest.MonkeyPatch, flags: str, concurrency: str
) -> None:
    monkeypatch.setattr(cpus, "usable", lambda: 8)
    environ = {"WEB_CONCURRENCY": concurrency}
    config = sources(*flags.split(), "--max-workers", "3", environ=environ).load()
    assert (config.workers, config.most_workers) == (Workers(3, 3), 3)
    usual = 9 if concurrency and not flags else 8
    assert sources(*flags.split(), environ=environ).load().workers == Workers(usual, usual)


# -- WEB_CONCURRENCY


def test_web_concurrency_counts_where_nothing_else_is_given(tmp_path: Path) -> None:
    platform = {"WEB_CONCURRENCY": "3"}
    assert sources(environ=platform).load().workers == Workers(3, 3)
    file = write(tmp_path / "f.toml", "workers = 4")
    assert sources("-c", file, environ=platform).load().workers == Workers(4, 4)
    assert sources(environ=platform | {"FORKD_WORKERS": "5"}).load().workers == Workers(5, 5)
    assert sources("-w", "1:6", environ=platform).load().workers == Workers(1, 6)
    assert sources("-w", "auto", environ=platform).load().workers == sources().load().workers
    for empty in ("", " "):
        assert sources(environ={"WEB_CONCURRENCY": empty}).load() == sources().load()


def test_web_concurrency_is_kept_for_a_reload_and_an_upgrade(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    given = sources("-c", write(file, "workers = 4"), environ={"WEB_CONCURRENCY": "3"})
    again = Sources(**json.loads(json.dumps(dataclasses.asdict(given))))
    file.write_text("")
    assert again.load().workers == Workers(3, 3)


@pytest.mark.parametrize("value", ["many", "0", "-1", "1.5", "513", "3:2"])
def test_nonsense_in_web_concurrency(value: str) -> None:
    (found,) = problems(sources(environ={"WEB_CONCURRENCY": value}))
    assert (found.key, found.value, found.where) == ("workers", value, "environment WEB_CONCURRENCY")
    assert found.allowed.startswith("must be N from 1 to 512")
    assert sources("-w", "2", environ={"WEB_CONCURRENCY": value}).load().workers == Workers(2, 2)


@pytest.mark.parametrize(
    ("argv", "key", "words"),
    [
        ("--accept reuseport -w 2 -b unix:/a -b fd://3", "accept", "cannot serve unix:/a, fd://3"),
        ("--accept reuseport -w 1:2", "accept", "fixed number"),
        ("-w 5 --max-workers 4", "max-workers", "must not be below workers (5)"),
        ("-w 1:5 --max-workers 4", "max-workers", "must not be below workers (1:5)"),
        ("--max-requests-jitter 5", "max-requests-jitter", "without max-requests"),
        ("--max-age-jitter 5", "max-age-jitter", "without max-age"),
        ("-b :80 -b 0.0.0.0:80", "bind", "twice: 0.0.0.0:80"),
        ("-b unix:/a -b unix:/a", "bind", "twice: unix:/a"),
        ("--forwarded-allow none --proxy-protocol", "forwarded-allow", "127.0.0.1:8000 would be closed"),
        ("--forwarded-allow none -b :1 -b :2?protocol=uwsgi", "forwarded-allow", ":2?protocol=uwsgi would"),
        ("--forwarded-fields host,x-real-ip", "forwarded-fields", "host: no proxy says there"),
        ("-b fd://3 -b fd://3", "bind", "twice: fd://3"),
        ("-b 127.0.0.1:9464", "admin", "must differ"),
        ("-b unix:/c.sock --control /c.sock", "control", "must differ"),
        ("--control /" + "x" * 107, "control", "at most 107 bytes"),
        ("--pidfile /" + "x" * 103, "control", "at most 107 bytes"),
        ("--pidfile /a --control /a", "pidfile", "must differ from control"),
        ("--pidfile /a --error-log /a", "pidfile", "error-log"),
        ("--pidfile /a --access-log /a", "pidfile", "access-log"),
    ],
)
def test_combinations_that_make_no_sense(argv: str, key: str, words: str) -> None:
    (found,) = problems(sources(*argv.split()))
    assert found.key == key
    assert words in found.allowed
    assert "flag --" in found.where


@pytest.mark.parametrize(
    "argv",
    [
        "-b :0 -b :0 --admin :0",
        "-b :80 -b [::1]:80",
        "--accept reuseport -w 2:2",
        "--accept reuseport -w auto",
        "--max-requests 5 --max-requests-jitter 5",
        "--max-age 5 --max-age-jitter 5",
        "--group www-data",
        "--forwarded-allow none",
        "--forwarded-allow none --proxy-protocol -b :1?proxy=off",
        "--forwarded-allow unix -b unix:/a?proxy=on",
        "--forwarded-fields true-client-ip,proxy-client-ip,x-forwarded-proto,forwarded",
        "--error-log /x --access-log /x",
    ],
)
def test_combinations_that_do(argv: str) -> None:
    sources(*argv.split()).load()


def test_no_combination_is_judged_on_a_wrong_value() -> None:
    found = problems(sources("--max-requests", "x", "--max-requests-jitter", "5"))
    assert [p.key for p in found] == ["max-requests"]


# -- paths


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etc").mkdir()
    file = write(tmp_path / "etc" / "f.toml", "access-log = 'a.log'\nchdir = '.'\n")
    monkeypatch.chdir(tmp_path)
    source = sources("-c", "etc/f.toml", "--error-log", "e.log", environ={"FORKD_PIDFILE": "p.pid"})
    monkeypatch.chdir("/")  # as the master does
    config = source.load()
    assert source.path == file
    assert config.access_log == f"{tmp_path}/etc/a.log"
    assert config.chdir == f"{tmp_path}/etc"
    assert config.error_log == f"{tmp_path}/e.log"
    assert config.pidfile == f"{tmp_path}/p.pid"


@pytest.mark.parametrize(
    ("pidfile", "control", "expected"),
    [
        ("", "", ("/r/n.pid", "/r/n.sock", "/r/n.log")),
        ("/p/a.pid", "", ("/p/a.pid", "/p/a.sock", "/p/a.log")),
        ("/p/my.app", "", ("/p/my.app", "/p/my.app.sock", "/p/my.app.log")),
        ("", "/c/a.sock", ("/c/a.pid", "/c/a.sock", "/c/a.log")),
        ("/p/a.pid", "/c/b.sock", ("/p/a.pid", "/c/b.sock", "/p/a.log")),
    ],
)
def test_resolve_paths(pidfile: str, control: str, expected: tuple[str, ...]) -> None:
    config = resolve_paths(Config(name="n", pidfile=pidfile, control=control), "/r", "/w")
    assert (config.pidfile, config.control, config.default_error_log) == expected


def test_the_runtime_directory() -> None:
    assert default_runtime_dir(0, {"XDG_RUNTIME_DIR": "/run/user/0"}) == "/run/forkd"
    assert default_runtime_dir(7, {"XDG_RUNTIME_DIR": "/run/user/7"}) == "/run/user/7/forkd"
    assert default_runtime_dir(7, {"XDG_RUNTIME_DIR": "rel"}) == "/tmp/forkd-7"
    assert default_runtime_dir(7, {}) == "/tmp/forkd-7"


# -- reload and flags


def test_the_current_directory_is_called_what_the_shell_calls_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, current = tmp_path / "releases" / "r1", tmp_path / "current"
    release.mkdir(parents=True)
    current.symlink_to("releases/r1")
    monkeypatch.chdir(current)
    flags = ["--access-log", "a", "--error-log", "../b/../c"]
    config = sources(*flags, environ={"PWD": str(current)}).load()
    assert (config.chdir, config.access_log) == (str(current), f"{current}/a")
    assert config.error_log == f"{tmp_path}/releases/c"  # as the kernel has it
    for pwd in ("", "current", str(tmp_path), str(tmp_path / "none")):  # of another directory, or of none
        config = sources(*flags, environ={"PWD": pwd}).load()
        assert (config.chdir, config.access_log) == (str(release), f"{release}/a")


def test_unreloadable() -> None:
    old = sources().load()
    new = sources(
        "m:a", "--name", "x", "-w", "3", "-b", ":1", "--umask", "0", "--io", "poll"
    ).load()
    assert new.workers == Workers(3, 3)
    assert unreloadable(old, new) == ["name", "pidfile", "control", "umask"]
    assert unreloadable(old, old) == []
    assert {row.name for row in OPTIONS if not row.reloadable} == {
        "name", "backlog", "foreground", "pidfile", "control", "user", "group", "umask",
        "admin", "health", "threads", "max-workers", "error-log", "storage",
    }  # fmt: skip


def test_only_some_flags() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, only={"pidfile", "control", "name"})
    assert vars(parser.parse_args(["--name", "x"])) == {"config": None, "name": "x"}
    with pytest.raises(SystemExit):
        parser.parse_args(["m:a"])


def test_help_has_every_flag_with_its_default() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    # Line breaks fall anywhere, after hyphens too.
    text = re.sub(r"\s", "", parser.format_help())
    for row in OPTIONS:
        assert all(flag in text for flag in row.flags)
        assert re.sub(r"\s", "", f"{row.help} [default: {row.default_text}]") in text


# -- where the daemon is


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "ENOENT: No such file or directory"),
        ("a = = b\n", "is not TOML: Invalid value (at line 1, column 5)"),
    ],
)
def test_a_file_that_cannot_be_read_leads_to_no_other_daemon(
    tmp_path: Path, text: str | None, words: str
) -> None:
    """Its pid file may have been named in it: `forkd stop -c` must not stop the daemon of the default one."""
    path = tmp_path / "blog.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        sources("-c", str(path), "--name", "blog").locate()
    assert caught.value.exit_code == 2
    assert caught.value.problems == (Problem("config", str(path), words, f"file {path}"),)
    # Who says where the daemon is needs no file for that.
    assert sources("-c", str(path), "--pidfile", "/run/b.pid").locate().pidfile == "/run/b.pid"
    of_variable = {"FORKD_PIDFILE": "/run/c.pid", "FORKD_CONFIG": str(path)}
    assert sources(environ=of_variable).locate().control == "/run/c.sock"


def test_what_is_wrong_elsewhere_keeps_nobody_from_the_daemon(tmp_path: Path) -> None:
    path = write(tmp_path / "blog.toml", 'workers = "eight"\npidfile = "blog.pid"\nnonsense = 1\n')
    assert sources("-c", path).locate().pidfile == str(tmp_path / "blog.pid")
