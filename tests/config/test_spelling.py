"""What is said of an option, a verb or a value that is another server's."""

from __future__ import annotations

import re

import pytest

from forkd.command.main import VERBS
from forkd.config import OPTIONS, spelling
from forkd.config.foreign import FOREIGN

OURS = {flag for row in OPTIONS for flag in row.flags} | {"--config", "-c", "-h", "--help"}
SWITCHES = {f"--no-{row.name}" for row in OPTIONS if isinstance(row.default, bool)}

#: As their --help has them.
GUNICORN_27 = """
    --access-logfile --access-logformat --asgi-disconnect-grace-period --asgi-lifespan --asgi-loop
    --backlog --bind --ca-certs --capture-output --casefold-http-method --cert-reqs --certfile --chdir
    --check-config --ciphers --config --control-socket --control-socket-mode --daemon --dirty-app
    --dirty-graceful-timeout --dirty-threads --dirty-timeout --dirty-workers
    --disable-redirect-access-to-syslog --do-handshake-on-connect --dogstatsd-tags
    --enable-backlog-metric --enable-stdio-inheritance --env --error-logfile --forwarded-allow-ips
    --forwarder-headers --graceful-timeout --group --header-map --help --http-parser --http-protocols
    --http2-cleartext --http2-initial-window-size --http2-max-concurrent-streams --http2-max-frame-size
    --http2-max-header-list-size --initgroups --keep-alive --keyfile --limit-request-field_size
    --limit-request-fields --limit-request-line --log-config --log-config-json --log-file --log-level
    --log-syslog --log-syslog-facility --log-syslog-prefix --log-syslog-to --logger-class --max-requests
    --max-requests-jitter --name --no-control-socket --no-sendfile --paste --paste-global --paster
    --permit-obsolete-folding --permit-unconventional-http-method --permit-unconventional-http-version
    --pid --preload --print-config --protocol --proxy-allow-from --proxy-protocol --pythonpath --reload
    --reload-engine --reload-extra-file --reuse-port --root-path --spew --ssl-version --statsd-host
    --statsd-prefix --strip-header-spaces --suppress-ragged-eofs --threads --timeout --umask --user
    --uwsgi-allow-from --version --websocket-max-message-size --worker-class --worker-connections
    --worker-tmp-dir --workers -D -R -b -c -e -g -h -k -m -n -p -t -u -v -w
"""
UVICORN_0_54 = """
    --access-log --app-dir --backlog --date-header --env-file --factory --fd --forwarded-allow-ips
    --h11-max-incomplete-event-size --header --help --host --http --http2 --interface --lifespan
    --limit-concurrency --limit-max-requests --limit-max-requests-jitter --log-config --log-level --loop
    --no-access-log --no-date-header --no-proxy-headers --no-server-header --no-use-colors --port
    --proxy-headers --reload --reload-delay --reload-dir --reload-exclude --reload-include
    --reset-contextvars --root-path --server-header --ssl-ca-certs --ssl-cert-reqs --ssl-certfile
    --ssl-ciphers --ssl-keyfile --ssl-keyfile-password --ssl-version --timeout-graceful-shutdown
    --timeout-keep-alive --timeout-worker-healthcheck --uds --use-colors --version --workers --ws
    --ws-max-queue --ws-max-size --ws-per-message-deflate --ws-ping-interval --ws-ping-timeout
"""
GRANIAN_2_8 = """
    --access-log --access-log-fmt --backlog --backpressure --blocking-threads
    --blocking-threads-idle-timeout --env-files --factory --help --host --http --http1-buffer-size
    --http1-header-read-timeout --http1-keep-alive --http1-pipeline-flush --http2-adaptive-window
    --http2-initial-connection-window-size --http2-initial-stream-window-size
    --http2-keep-alive-interval --http2-keep-alive-timeout --http2-max-concurrent-streams
    --http2-max-frame-size --http2-max-headers-size --http2-max-send-buffer-size --interface --log
    --log-config --log-level --loop --metrics --metrics-address --metrics-port --metrics-scrape-interval
    --no-access-log --no-factory --no-http1-keep-alive --no-http1-pipeline-flush
    --no-http2-adaptive-window --no-log --no-metrics --no-reload --no-reload-ignore-worker-failure
    --no-respawn-failed-workers --no-ssl-client-verify --no-ws --pid-file --port --process-name --reload
    --reload-ignore-dirs --reload-ignore-paths --reload-ignore-patterns --reload-ignore-worker-failure
    --reload-paths --reload-tick --respawn-failed-workers --respawn-interval --rss-sample-interval
    --rss-samples --runtime-blocking-threads --runtime-mode --runtime-threads --ssl-ca --ssl-certificate
    --ssl-client-verify --ssl-crl --ssl-keyfile --ssl-keyfile-password --ssl-protocol-min
    --static-path-dir-to-file --static-path-expires --static-path-mount --static-path-route --task-impl
    --uds --uds-permissions --url-path-prefix --version --workers --workers-kill-timeout
    --workers-lifetime --workers-max-rss --working-dir --ws
"""
HYPERCORN_0_18 = """
    --access-log --access-logfile --access-logformat --backlog --bind --ca-certs --cert-reqs --certfile
    --ciphers --config --daemon --debug --error-log --error-logfile --graceful-timeout --group
    --insecure-bind --keep-alive --keyfile --keyfile-password --log-config --log-file --log-level
    --max-requests --max-requests-jitter --pid --quic-bind --read-timeout --reload --root-path
    --server-name --statsd-host --statsd-prefix --umask --user --verify-mode --websocket-ping-interval
    --worker-class --workers -D -b -c -g -k -m -p -u -w
"""
#: Of its file.
HYPERCORN_KEYS = """
    access-log-format accesslog alpn-protocols alt-svc-headers application-path backlog bind ca-certs
    cert-reqs certfile ciphers daemon debug dogstatsd-tags errorlog graceful-timeout group
    h11-max-incomplete-size h11-pass-raw-headers h2-max-concurrent-streams h2-max-header-list-size
    h2-max-inbound-frame-size include-date-header include-server-header insecure-bind
    keep-alive-max-requests keep-alive-timeout keyfile keyfile-password log logconfig logconfig-dict
    loglevel max-app-queue-size max-requests max-requests-jitter pid-path quic-bind read-timeout
    root-path server-names shutdown-timeout ssl-enabled ssl-handshake-timeout startup-timeout
    statsd-host statsd-prefix umask use-reloader user verify-flags verify-mode
    websocket-max-message-size websocket-ping-interval worker-class workers wsgi-max-body-size
"""
#: Of its 971 those that are found in most files.
UWSGI_2 = """
    -H -C -L -M -R -d -l -p -s -t --alarm --async --attach-daemon --buffer-size --cache2 --callable
    --carbon --cheaper --cheaper-algo --cheaper-initial --cheaper-step --check-static --chmod-socket
    --chown-socket --chroot --cron --daemonize --daemonize2 --die-on-term --disable-logging --emperor
    --enable-threads --env --fastrouter --file --gevent --gid --harakiri --harakiri-verbose --home
    --hook-post-app --http --http-keepalive --http-socket --http-timeout --https --idle --ini --lazy
    --lazy-apps --limit-as --limit-post --listen --log-5xx --log-maxsize --logformat --logger --logto
    --manage-script-name --master --master-fifo --max-requests --max-requests-delta
    --max-worker-lifetime --mount --module --mule --need-app --offload-threads --pidfile --pidfile2
    --plugin --plugins --post-buffering --processes --procname --procname-prefix --protocol
    --py-autoreload --pyhome --pythonpath --queue --reload --reload-mercy --reload-on-rss --reuse-port
    --route-uri --set --single-interpreter --socket --socket-timeout --spooler --static-map --stats
    --stop --strict --subscribe-to --thunder-lock --touch-reload --uid --umask --uwsgi-socket --vacuum
    --virtualenv --worker-reload-mercy --workers --wsgi-file --xml --yaml
"""


@pytest.mark.parametrize(
    "flag", sorted({*f"{GUNICORN_27} {UVICORN_0_54} {HYPERCORN_0_18} {GRANIAN_2_8} {UWSGI_2}".split()})
)
def test_each_flag_of_the_others_is_ours_or_answered(flag: str) -> None:
    if flag.replace("_", "-") not in OURS:  # with "_" it is told the nearest, which is ours
        assert re.match(r"(a flag of .+; )?(here it is|not here, because) \S", spelling.of_flag(flag))


@pytest.mark.parametrize("key", HYPERCORN_KEYS.split())
def test_each_key_of_the_others_is_ours_or_answered(key: str) -> None:
    assert f"--{key}" in OURS or " here" in spelling.of_key(key)


def test_what_it_is_here_exists() -> None:
    for row in FOREIGN:
        assert row.words or row.here, row
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*", row.here):
            assert flag in OURS | SWITCHES or flag == "--version", row
        for verb in re.findall(r"^forkd ([a-z]+)", row.here) + re.findall(r"`forkd ([a-z]+)", row.words):
            assert verb in VERBS, row


def test_no_name_is_there_twice_and_none_is_ours() -> None:
    names = [name for row in FOREIGN for name in row.names.split()]
    assert sorted(names) == sorted(set(names))
    assert not OURS & set(names)
    for at, row in enumerate(FOREIGN):  # no family before one of its own members
        starts = [n[:-1] for earlier in FOREIGN[:at] for n in earlier.names.split() if n.endswith("*")]
        for name in row.names.split():
            assert name.endswith("*") is False or not name[:-1].startswith(tuple(starts)), name


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--host", "a flag of uvicorn and granian; here it is --bind HOST:PORT"),
        ("--daemon", "a flag of gunicorn and hypercorn; here it is forkd start, which detaches by "
         "itself; -f stays in the foreground"),
        ("--access-logfile", "a flag of gunicorn, hypercorn and uWSGI; here it is --access-log PATH"),
        ("--access_logfile", "a flag of gunicorn, hypercorn and uWSGI; here it is --access-log PATH"),
        ("-t30", "a flag of gunicorn and uWSGI; here it is --timeout SECONDS"),
        ("--workers-lifetime", "a flag of granian; here it is --max-age SECONDS"),
        ("--ssl-keyfile", "a flag of gunicorn, uvicorn, hypercorn, granian and uWSGI; not here, because "
         "forkd speaks plain HTTP/1.1: TLS is the front's (etc/nginx.conf)"),
        ("--no-ssl-client-verify", "a flag of gunicorn, uvicorn, hypercorn, granian and uWSGI; not here, "
         "because forkd speaks plain HTTP/1.1: TLS is the front's (etc/nginx.conf)"),
        ("--nonsense", ""), ("--no-nonsense", ""), ("-y", ""), ("-", ""), ("--", ""),
    ],
)  # fmt: skip
def test_a_flag(flag: str, said: str) -> None:
    assert spelling.of_flag(flag) == said


def test_the_flag_that_was_taken_for_another() -> None:
    """`--reload` was answered with `--preload?`, `--daemon` with `--admin?`, `--host` with `--hooks?`."""
    assert "forkd reload" in spelling.of_flag("--reload")
    for flag in ("--reload", "--daemon", "--host"):
        assert not re.search("--preload|--admin|--hooks", spelling.of_flag(flag))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("strat", "no verb 'strat'; did you mean start?"),
        ("run app:app", "no verb 'run'; here it is forkd start"),
        ("ps", "no verb 'ps'; here it is forkd list"),
        ("app:app -w 4", "no verb 'app:app'; did you mean forkd start app:app -w 4?"),
        ("mysite.wsgi", "no verb 'mysite.wsgi'; did you mean forkd start mysite.wsgi?"),
        ("-w 4 app:app", "a verb comes first: forkd start -w 4 app:app"),
        ("zzz", "no verb 'zzz'"),
    ],
)
def test_a_verb(words: str, said: str) -> None:
    assert spelling.of_verb(words.split(), VERBS) == said


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("interface", "gthread", "gunicorn's worker class gthread is --threads N here"),
        ("interface", "uvicorn.workers.UvicornWorker", "write asgi"),
        ("interface", "trio", "hypercorn's worker class trio is not here: ASGI is served on asyncio"),
        ("log-level", "CRITICAL", "write error"),
        ("model", "007", "gunicorn's -m is --umask here"),
        ("workers", "mysite.wsgi", "uWSGI's -w is the argument here: forkd start MODULE"),
        ("workers", "-3", ""), ("log-level", "loud", ""), ("interface", 5, ""),
    ],
)  # fmt: skip
def test_a_value(option: str, value: object, said: str) -> None:
    assert spelling.of_value(option, value) == said
