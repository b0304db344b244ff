"""Flags of other servers, and keys of their files: what each is here, or why there is none.

The table. Read by spelling.py, only where an option is unknown, and by scripts/reference.
"""

from __future__ import annotations

from typing import NamedTuple

GUNICORN, UVICORN, HYPERCORN, GRANIAN, UWSGI = "gunicorn", "uvicorn", "hypercorn", "granian", "uWSGI"


class Foreign(NamedTuple):
    """A row. A name that ends with * stands for all that begin so."""

    names: str  # separated by spaces
    whose: tuple[str, ...]
    here: str  # forkd's spelling; "" if there is none
    words: str = ""  # what else is to be said of it; or, without a spelling, what follows "because"


_NO_TLS = "forkd speaks plain HTTP/1.1: TLS is the front's (etc/nginx.conf)"
_NO_HTTP2 = "forkd speaks HTTP/1.1: HTTP/2 is the front's (etc/nginx.conf)"
_NO_STATIC = "a front serves files better (etc/nginx.conf), and WhiteNoise does it in the application"
_STRICT = "what is no proper request is refused, or two servers in a row would read it differently"
_ENVIRONMENT = "forkd passes its own environment on: NAME=value forkd start …, or the unit's Environment="

#: What is more special comes first: a family with * takes what is left.
FOREIGN: tuple[Foreign, ...] = (
    # where it listens
    Foreign("--host --port", (UVICORN, GRANIAN), "--bind HOST:PORT"),
    Foreign("--http-socket", (UWSGI,), "--bind HOST:PORT"),
    Foreign("--socket --uwsgi-socket -s", (UWSGI,), "--bind HOST:PORT?protocol=uwsgi",
            "for a front with uwsgi_pass; without ?protocol=uwsgi it speaks HTTP"),
    Foreign("--http", (UWSGI, UVICORN, GRANIAN), "--bind HOST:PORT", "HTTP/1.1 is all that is spoken"),
    Foreign("--uds", (UVICORN, GRANIAN), "--bind unix:PATH"),
    Foreign("--fd", (UVICORN,), "--bind fd://N"),
    Foreign("--listen -l", (UWSGI,), "--backlog N"),
    Foreign("--uds-permissions", (GRANIAN,), "--socket-mode MODE"),
    Foreign("--chmod-socket -C", (UWSGI,), "--socket-mode MODE"),
    Foreign("--chown-socket", (UWSGI,), "--socket-owner USER", "and --socket-group GROUP"),
    Foreign("--abstract-socket --freebind", (UWSGI,), "", "forkd binds what is there: TCP, or a path"),
    Foreign("--reuse-port", (GUNICORN, UWSGI), "--accept reuseport"),
    Foreign("--thunder-lock", (UWSGI,), "--accept lock", "which is the default"),
    Foreign("--insecure-bind", (HYPERCORN,), "--bind HOST:PORT", "HTTP without TLS is all that is spoken"),
    Foreign("--server-name --server-names", (HYPERCORN,), "--allowed-hosts HOST"),
    # the application
    Foreign("--module --wsgi-file --wsgi --file --callable", (UWSGI,), "forkd start MODULE:ATTRIBUTE"),
    Foreign("--wsgi-app", (GUNICORN,), "forkd start MODULE:ATTRIBUTE"),
    Foreign("--application-path", (HYPERCORN,), "forkd start MODULE:ATTRIBUTE"),
    Foreign("--factory --no-factory", (UVICORN, GRANIAN), "forkd start 'MODULE:FACTORY()'"),
    Foreign("--app-dir", (UVICORN,), "--chdir DIR", "from where the application is imported"),
    Foreign("--working-dir", (GRANIAN,), "--chdir DIR"),
    Foreign("--pythonpath --python-path --pp", (GUNICORN, UWSGI), "--chdir DIR",
            "from where the application is imported, or PYTHONPATH in the environment"),
    Foreign("--home --virtualenv --venv --pyhome -H", (UWSGI,), "",
            "the Python that runs forkd is the application's: install forkd into its environment"),
    Foreign("--env -e", (GUNICORN, UWSGI), "", _ENVIRONMENT),
    Foreign("--env-file --env-files", (UVICORN, GRANIAN), "", _ENVIRONMENT),
    Foreign("--raw-env", (GUNICORN,), "", _ENVIRONMENT),
    Foreign("--preload-app", (GUNICORN,), "--preload"),
    Foreign("--lazy --lazy-apps", (UWSGI,), "--no-preload", "which is the default"),
    Foreign("--paste --paster --paste-global --ini-paste", (GUNICORN, UWSGI), "",
            "the application is module:attribute; a call may be in it, 'project:make(\"site.ini\")'"),
    Foreign("--url-path-prefix", (GRANIAN,), "--root-path PATH"),
    Foreign("--mount --manage-script-name", (UWSGI,), "",
            "SCRIPT_NAME is what the front says (docs/proxies.md), "
            "or the application's middleware mounts it (DispatcherMiddleware, FORCE_SCRIPT_NAME)"),
    Foreign("--need-app", (UWSGI,), "", "an application that cannot be imported always ends the start"),
    Foreign("--single-interpreter --enable-threads --no-site", (UWSGI,), "",
            "it is always so: one interpreter, threads allowed, site imported"),
    Foreign("--reset-contextvars", (UVICORN,), "--lifespan-context",
            "each request has a copy of the lifespan's context, and sees no variable that another has set"),
    # new code
    Foreign("--reload --no-reload", (GUNICORN, UVICORN, HYPERCORN, GRANIAN, UWSGI), "",
            "forkd looks at no files: `forkd reload` replaces the workers without losing a request; "
            "while you write, `git ls-files | entr forkd reload`"),
    Foreign("--reload-on-rss --evil-reload-on-rss", (UWSGI,), "--max-rss SIZE"),
    Foreign("--reload-mercy --worker-reload-mercy", (UWSGI,), "--graceful-timeout SECONDS"),
    Foreign("--reload-* --use-reloader --py-autoreload --py-auto-reload --touch-reload --touch-*",
            (GUNICORN, UVICORN, HYPERCORN, GRANIAN, UWSGI), "",
            "forkd looks at no files: `forkd reload` replaces the workers without losing a request"),
    # workers
    Foreign("--worker-class", (GUNICORN, HYPERCORN), "--model NAME",
            "see `forkd models`; --threads N is what gthread does; ASGI is found out"),
    Foreign("--processes", (UWSGI,), "--workers N"),
    Foreign("--cheaper", (UWSGI,), "--workers MIN:MAX"),
    Foreign("--cheaper-*", (UWSGI,), "--workers MIN:MAX", "which follows the load by itself"),
    Foreign("--blocking-threads --runtime-blocking-threads", (GRANIAN,), "--threads N",
            "for WSGI; the threads of an ASGI application are its framework's"),
    Foreign("--asgi-loop", (GUNICORN,), "--loop NAME"),
    Foreign("--task-impl", (GRANIAN,), "--request-task lazy|real", "of which real is asyncio's own"),
    Foreign("--gevent --async --asyncio --ugreen --runtime-mode --runtime-threads "
            "--blocking-threads-idle-timeout", (GRANIAN, UWSGI), "",
            "the model decides who waits and who works: --model NAME, see `forkd models`"),
    Foreign("--backpressure", (GRANIAN,), "--worker-connections N"),
    Foreign("--worker-tmp-dir", (GUNICORN,), "", "workers show that they live in memory, not by a file"),
    Foreign("--cpu-affinity", (UWSGI,), "", "the kernel places them better; taskset(1) sets it for all"),
    Foreign("--respawn-*", (GRANIAN,), "", "a worker that dies is always replaced, later each time"),
    Foreign("--limit-max-requests", (UVICORN,), "--max-requests N"),
    Foreign("--limit-max-requests-jitter", (UVICORN,), "--max-requests-jitter N"),
    Foreign("--max-requests-delta", (UWSGI,), "--max-requests-jitter N"),
    Foreign("--workers-lifetime", (GRANIAN,), "--max-age SECONDS"),
    Foreign("--max-worker-lifetime", (UWSGI,), "--max-age SECONDS"),
    Foreign("--max-worker-lifetime-delta", (UWSGI,), "--max-age-jitter SECONDS"),
    Foreign("--min-worker-lifetime", (UWSGI,), "", "one worker at a time is replaced, whatever is due"),
    Foreign("--workers-max-rss", (GRANIAN,), "--max-rss SIZE"),
    Foreign("--rss-sample-interval --rss-samples", (GRANIAN,), "", "memory is looked at every 5 seconds"),
    # time and size
    Foreign("--harakiri", (UWSGI,), "--timeout SECONDS"),
    Foreign("--harakiri-*", (UWSGI,), "", 
            "the error log always says what the worker was at, with its stacks"),
    Foreign("--timeout-worker-healthcheck", (UVICORN,), "--timeout SECONDS"),
    Foreign("--timeout-keep-alive", (UVICORN,), "--keep-alive SECONDS"),
    Foreign("--keep-alive-timeout", (HYPERCORN,), "--keep-alive SECONDS"),
    Foreign("--keep-alive-max-requests", (HYPERCORN,), "",
            "a connection may have any number of requests; --max-requests N replaces the worker"),
    Foreign("--keepalive --http-keepalive --so-keepalive", (GUNICORN, UWSGI), "--keep-alive SECONDS"),
    Foreign("--http1-keep-alive --no-http1-keep-alive", (GRANIAN,), "--keep-alive SECONDS", "0 is never"),
    Foreign("--timeout-graceful-shutdown", (UVICORN,), "--graceful-timeout SECONDS"),
    Foreign("--startup-timeout", (HYPERCORN,), "--boot-timeout SECONDS"),
    Foreign("--shutdown-timeout", (HYPERCORN,), "",
            "lifespan.shutdown has 5 seconds of its own, after --graceful-timeout (docs/asgi.md)"),
    Foreign("--read-timeout", (HYPERCORN,), "--body-timeout SECONDS", "and --header-timeout SECONDS"),
    Foreign("--workers-kill-timeout", (GRANIAN,), "--graceful-timeout SECONDS"),
    Foreign("--http1-header-read-timeout", (GRANIAN,), "--header-timeout SECONDS"),
    Foreign("--http-timeout --socket-timeout --http-to", (UWSGI,), "--body-timeout SECONDS",
            "--write-timeout SECONDS and --header-timeout SECONDS"),
    Foreign("--h11-max-incomplete-event-size --h11-max-incomplete-size", (UVICORN, HYPERCORN),
            "--limit-request-head SIZE"),
    Foreign("--buffer-size", (UWSGI,), "--limit-request-head SIZE"),
    Foreign("--limit-post", (UWSGI,), "--limit-request-body SIZE"),
    Foreign("--wsgi-max-body-size", (HYPERCORN,), "--limit-request-body SIZE"),
    Foreign("--post-buffering", (UWSGI,), "--body-buffer SIZE"),
    Foreign("--http1-buffer-size --http1-pipeline-flush --no-http1-pipeline-flush", (GRANIAN,), "",
            "forkd has no such buffer: it reads what has come, and sends answers at once"),
    Foreign("--offload-threads --no-sendfile", (UWSGI, GUNICORN), "",
            "files of wsgi.file_wrapper are always sent by sendfile(2), and hold no worker"),
    # logs
    Foreign("--access-logfile --accesslog --req-logger", (GUNICORN, HYPERCORN, UWSGI), "--access-log PATH"),
    Foreign("--no-access-log --disable-logging -L", (UVICORN, GRANIAN, UWSGI),
            "--access-log none", "which is the default"),
    Foreign("--access-logformat --access-log-fmt --logformat", (GUNICORN, HYPERCORN, GRANIAN, UWSGI),
            "--access-log-format FORMAT", "whose fields are %{client} and so on; --log-format json has all"),
    Foreign("--error-logfile --errorlog --log-file", (GUNICORN, HYPERCORN), "--error-log PATH"),
    Foreign("--logto --logto2 --logger --daemonize --daemonize2 -d", (UWSGI,), "--error-log PATH",
            "forkd detaches by itself"),
    Foreign("--loglevel", (GUNICORN, HYPERCORN), "--log-level LEVEL"),
    Foreign("--log --no-log", (GRANIAN,), "--log-level LEVEL"),
    Foreign("--verbose", (), "--log-level debug"),
    Foreign("--debug", (HYPERCORN,), "--log-level debug", "and PYTHONASYNCIODEBUG=1 for the loop's own"),
    Foreign("--quiet -q", (), "--log-level error"),
    Foreign("--capture-output --disable-redirect-access-to-syslog --enable-stdio-inheritance", (GUNICORN,),
            "",             "what the application prints is always in the error log"),
    Foreign("--use-colors --no-use-colors", (UVICORN,), "", "logs have no colours"),
    Foreign("--log-config --log-config-json --logger-class --logconfig --logconfig-dict",
            (GUNICORN, UVICORN, HYPERCORN, GRANIAN), "",
            "the application configures its own logging; forkd's is --log-level and --log-format"),
    Foreign("--log-syslog* --syslog", (GUNICORN,), "",
            "the journal, or what reads a file, passes lines on: --error-log PATH, or - in the foreground"),
    Foreign("--log-maxsize --log-date --log-master --log-4xx --log-5xx --log-slow --log-x-forwarded-for",
            (UWSGI,), "", "the lines of the logs are fixed; logrotate rotates them, then SIGUSR1"),
    # the process
    Foreign("--daemon -D", (GUNICORN, HYPERCORN), "forkd start",
            "which detaches by itself; -f stays in the foreground"),
    Foreign("--no-daemon --nodaemon", (), "--foreground"),
    Foreign("--pid --pid-file --pid-path --pidfile2 --safe-pidfile", (GUNICORN, HYPERCORN, GRANIAN, UWSGI),
            "--pidfile PATH"),
    Foreign("-p", (GUNICORN, HYPERCORN, UWSGI), "--pidfile PATH", "and uWSGI's -p is --workers N"),
    Foreign("--proc-name --process-name --procname --procname-prefix --procname-master --auto-procname "
            "--default-proc-name", (GUNICORN, GRANIAN, UWSGI), "--name NAME"),
    Foreign("-n", (GUNICORN,), "--name NAME"),
    Foreign("--uid", (UWSGI,), "--user NAME"),
    Foreign("--gid", (UWSGI,), "--group NAME"),
    Foreign("-u", (GUNICORN, HYPERCORN), "--user NAME"),
    Foreign("-g", (GUNICORN, HYPERCORN), "--group NAME"),
    Foreign("--initgroups", (GUNICORN,), "", "workers always have the groups of their user"),
    Foreign("-t", (GUNICORN, UWSGI), "--timeout SECONDS"),
    Foreign("-R", (GUNICORN, UWSGI), "--max-requests N",
            "if it is uWSGI's; what gunicorn's does is always so"),
    Foreign("--master -M --vacuum --die-on-term --strict --honour-stdin", (UWSGI,), "",
            "it is always so: a master, files removed at the end, SIGTERM ends, unknown options are errors"),
    Foreign("--ini --yaml --yml --xml --json", (UWSGI,), "--config FILE", "which is TOML (etc/forkd.toml)"),
    Foreign("--plugin* --need-plugin*", (UWSGI,), "", "forkd has no plugins: it serves Python"),
    Foreign("--set --set-placeholder", (UWSGI,), "", "the file is plain TOML (etc/forkd.toml)"),
    Foreign("--check-config", (GUNICORN,), "forkd check"),
    Foreign("--print-config --show-config", (GUNICORN, UWSGI), "",
            "`forkd check` reads and judges it; docs/reference/options.md has the defaults"),
    Foreign("--version -V", (), "forkd --version"),
    Foreign("-v", (), "forkd --version", "and for more in the log --log-level debug"),
    Foreign("--spew", (GUNICORN,), "", "the error log has the stacks of a worker that hangs"),
    Foreign("--stop", (UWSGI,), "forkd stop"),
    Foreign("--master-fifo", (UWSGI,), "",
            "the verbs are sent to a socket of forkd's own: forkd --help"),
    Foreign("--chroot --cap --limit-as --limit-nproc --cgroup* --namespace* --unshare* --pivot* --prio",
            (UWSGI,), "",
            "the service manager does that: RootDirectory=, LimitNOFILE=, MemoryMax= of systemd"),
    Foreign("--idle --die-on-idle", (UWSGI,), "--workers 0:N",
            "which keeps no worker while there is nothing to do"),
    Foreign("--ignore-sigpipe --ignore-write-errors --disable-write-exception --catch-exceptions "
            "--reload-on-exception --memory-report", (UWSGI,), "",
            "a client that leaves ends its own request only, and an exception is a 500 and a traceback"),
    # observing
    Foreign("--stats --stats-http --stats-server", (UWSGI,), "--admin ADDR",
            "with /status.json and /metrics"),
    Foreign("--alarm* --carbon* --snmp* --rrdtool* --nagios --stats-push* --metric-*", (UWSGI,), "",
            "metrics are for Prometheus, at --admin ADDR, and it alarms (etc/prometheus-rules.yml)"),
    Foreign("--metrics --metrics-address --metrics-port", (GRANIAN,), "--admin ADDR",
            "which is on by default"),
    Foreign("--no-metrics", (GRANIAN,), "--admin none"),
    Foreign("--metrics-scrape-interval --enable-backlog-metric", (GRANIAN, GUNICORN), "",
            "metrics are read when they are asked for, the accept queue's among them"),
    Foreign("--statsd-* --dogstatsd-tags", (GUNICORN, HYPERCORN), "",
            "metrics are for Prometheus, at --admin ADDR"),
    Foreign("--control-socket", (GUNICORN,), "--control PATH"),
    Foreign("--no-control-socket --control-socket-mode", (GUNICORN,), "",
            "the verbs need it; its mode is 0600, and only root and the master's user are heard"),
    # protocols
    Foreign("--certfile --keyfile --ca-certs --cert-reqs --ciphers --do-handshake-on-connect "
            "--suppress-ragged-eofs --https --https2 --ssl-* --keyfile-password --verify-mode --verify-flags "
            "--alpn-protocols", (GUNICORN, UVICORN, HYPERCORN, GRANIAN, UWSGI), "",
            _NO_TLS),
    Foreign("--http2* --h2-* --http-protocols --quic-bind --alt-svc-headers",
            (GUNICORN, UVICORN, HYPERCORN, GRANIAN), "", _NO_HTTP2),
    Foreign("--asgi-lifespan", (GUNICORN,), "--lifespan auto|on|off"),
    Foreign("--ws-max-size", (UVICORN,), "--ws-max-message SIZE"),
    Foreign("--websocket-max-message-size", (GUNICORN, HYPERCORN), "--ws-max-message SIZE"),
    Foreign("--websocket-ping-interval", (HYPERCORN,), "--ws-ping-interval SECONDS"),
    Foreign("--ws-max-queue --max-app-queue-size", (UVICORN, HYPERCORN), "",
            "64 KiB of a body, or 16 messages of a WebSocket, are read ahead of the application"),
    Foreign("--ws-per-message-deflate", (UVICORN,), "--ws-deflate"),
    Foreign("--ws --no-ws --ws-* --websocket-*", (UVICORN, GRANIAN, GUNICORN), "",
            "WebSocket is always there, and has one implementation"),
    Foreign("--asgi-disconnect-grace-period", (GUNICORN,), "",
            "an application is never cancelled: receive() says http.disconnect, and it decides"),
    Foreign("--protocol", (GUNICORN, UWSGI), "--bind HOST:PORT?protocol=uwsgi",
            "if it is uwsgi; http is the default, and FastCGI and SCGI are not spoken"),
    Foreign("--fastcgi-* --scgi-* --http-parser", (GUNICORN, UWSGI), "",
            "forkd speaks HTTP/1.1, which every front does, and uwsgi, and has one parser of each"),
    Foreign("--proxy-allow-from --uwsgi-allow-from", (GUNICORN,), "--forwarded-allow CIDR",
            "unix is a word of it, too"),
    Foreign("--enable-proxy-protocol", (UWSGI,), "--proxy-protocol"),
    Foreign("--forwarded-allow-ips", (GUNICORN, UVICORN), "--forwarded-allow CIDR",
            "which replaces the default, 127.0.0.0/8, ::1 and unix sockets"),
    Foreign("--proxy-headers --no-proxy-headers --secure-scheme-headers", (GUNICORN, UVICORN),
            "--forwarded-fields NAME", "by default X-Forwarded-*, from the peers of --forwarded-allow"),
    Foreign("--forwarder-headers --header-map --strip-header-spaces --casefold-http-method --permit-*",
            (GUNICORN,), "", _STRICT),
    Foreign("--h11-pass-raw-headers", (HYPERCORN,), "", "ASGI has header names in lower case"),
    Foreign("--no-server-header --include-server-header", (UVICORN, HYPERCORN), "--server-header none",
            "or the value that Server is to have"),
    Foreign("--date-header --no-date-header --include-date-header --header --add-header",
            (UVICORN, HYPERCORN, UWSGI), "",
            "the application sets headers, or the front does; forkd adds Date, and --server-header"),
    Foreign("--http-* --fastrouter* --rawrouter* --sslrouter* --subscri*", (UWSGI,), "",
            "there is no router process: --bind HOST:PORT is the workers' own"),
    # what another program does here
    Foreign("--static-* --check-static --offload*", (GRANIAN, UWSGI), "", _NO_STATIC),
    Foreign("--route* --vhost*", (UWSGI,), "", "routing is the front's, or the application's"),
    Foreign("--emperor* --vassal* --zerg* --legion*", (UWSGI,), "",
            "a service manager runs many daemons: one unit each, and `forkd list` finds them"),
    Foreign("--spooler* --mule --mules --farm --cron* --timer --signal* --dirty-*", (UWSGI, GUNICORN), "",
            "forkd has no background jobs: a queue (Celery, RQ) or a timer of systemd does them"),
    Foreign("--attach-daemon* --smart-attach-daemon* --exec-* --worker-exec*", (UWSGI,), "",
            "a service manager runs other programs; --hooks MODULE calls functions"),
    Foreign("--hook-* --call-* --import --py-import --python-import --shared-import", (UWSGI,),
            "--hooks MODULE"),
    Foreign("--cache* --queue* --sharedarea* --locks --rpc-*", (UWSGI,), "",
            "forkd shares no data between workers: Redis or a file does"),
)  # fmt: skip


class Value(NamedTuple):
    """A value that other servers take for an option that forkd has, too."""

    option: str
    pattern: str
    words: str


VALUES: tuple[Value, ...] = (
    Value("interface", r"sync", "gunicorn's worker class sync is what forkd does by default: leave -k out"),
    Value("interface", r"gthread", "gunicorn's worker class gthread is --threads N here"),
    Value(
        "interface", r"gevent|eventlet|tornado|gaiohttp|gunicorn\..*|ggevent|meinheld.*|egg:.*",
        "gunicorn's worker class is not here; --threads N, or a --model, see `forkd models`",
    ),
    Value("interface", r"uvicorn.*|asgi3", "write asgi"),
    Value("interface", r"asyncio|uvloop", "hypercorn's worker class is the loop: --loop NAME here"),
    Value("interface", r"trio", "hypercorn's worker class trio is not here: ASGI is served on asyncio"),
    Value("interface", r"asgi2", "ASGI 2 is not served; asgiref's guarantee_single_callable makes ASGI 3"),
    Value("interface", r"asginl", "write asgi, and --lifespan off"),
    Value("interface", r"rsgi", "RSGI is granian's own; ASGI and WSGI are served"),
    Value("interface", r"auto", "forkd finds out by itself: leave it out"),
    Value("loop", r"none|rloop|winloop|trio", "write auto"),
    Value("ws-origins", r"\*", "pages of any origin may by default: leave it out"),
    Value("log-level", r"(?i)critical|fatal|off|none|quiet", "write error"),
    Value("log-level", r"(?i)warn", "write warning"),
    Value("log-level", r"(?i)notice", "write info"),
    Value("log-level", r"(?i)trace|verbose", "write debug"),
    Value("model", r"(0o)?[0-7]{1,4}", "gunicorn's -m is --umask here"),
    Value("model", r"sync|gthread|gevent|eventlet|tornado", "see `forkd models`"),
    Value("workers", r"[A-Za-z_]\w*([.:]\w+)+", "uWSGI's -w is the argument here: forkd start MODULE"),
)  # fmt: skip

#: Verbs that people look for, and what does it here.
VERBS: dict[str, str] = {
    **dict.fromkeys(("run", "serve", "runserver", "up", "exec", "launch"), "forkd start"),
    **dict.fromkeys(("kill", "quit", "down", "shutdown", "terminate"), "forkd stop"),
    **dict.fromkeys(("ls", "ps", "daemons", "top"), "forkd list"),
    **dict.fromkeys(("test", "configtest", "validate", "lint"), "forkd check"),
    **dict.fromkeys(("info", "show", "stats", "stat"), "forkd status"),
    **dict.fromkeys(("hup", "refresh"), "forkd reload"),
    "version": "forkd --version",
    "help": "forkd --help",
    "reopen": "kill -USR1 PID",
}
