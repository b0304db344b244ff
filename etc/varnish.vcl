# A front for forkd: Varnish, which keeps answers that the application allows it to keep. Replace addresses. It speaks no
# TLS: something in front does (Hitch, HAProxy, nginx), which says who the client is by the PROXY protocol:
#
# varnishd -f /etc/varnish/varnish.vcl -a :80 -a 127.0.0.1:8443,PROXY
# forkd start app:app --bind 127.0.0.1:8000

vcl 4.1;
import std;

backend forkd {
    .host = "127.0.0.1";
    .port = "8000";
    .connect_timeout = 5s;
    # Longer than forkd's --timeout of 30 s, and than an event stream is silent.
    .first_byte_timeout = 60s;
    .between_bytes_timeout = 60s;
    # Connections to forkd are kept for 60 s (varnishd -p backend_idle_timeout), less than its --keep-alive of 75 s.
}

sub vcl_recv {
    # forkd takes the client, scheme, host and port from these: docs/proxies.md. What is not set here, a client could:
    # these are removed.
    set req.http.X-Forwarded-For = client.ip;
    set req.http.X-Forwarded-Host = req.http.Host;
    unset req.http.X-Forwarded-Port;
    unset req.http.X-Forwarded-Prefix;
    # With --request-ids forkd names the requests, and no client does.
    unset req.http.X-Request-ID;
    set req.http.X-Forwarded-Proto = "http";
    if (std.port(local.ip) == 8443) {
        set req.http.X-Forwarded-Proto = "https";
    }
    # forkd's own limit is --limit-request-body; it counts a chunked body, too.
    if (std.integer(req.http.Content-Length, 0) > 104857600) {
        return (synth(413));
    }
    if (req.http.Upgrade ~ "(?i)^websocket$") {
        return (pipe);
    }
}

sub vcl_pipe {
    # From here on bytes are passed on unseen, and what is no WebSocket must not become requests that Varnish has not
    # seen: "close" ends the connection where forkd does not upgrade it.
    set bereq.http.Upgrade = req.http.Upgrade;
    set bereq.http.Connection = "Upgrade, close";
}

sub vcl_synth {
    # Otherwise Varnish would read the rest of the body first.
    if (resp.status == 413) {
        set resp.http.Connection = "close";
    }
}

sub vcl_backend_fetch {
    # A kept connection belongs to the worker that has accepted it. Where workers have one thread, and some requests take
    # seconds, have none kept (docs/operations.md, Slow requests behind a front):
    # set bereq.http.Connection = "close";
}

sub vcl_backend_response {
    # Without this Varnish keeps for two minutes what says nothing of caches.
    if (!beresp.http.Cache-Control && !beresp.http.Expires) {
        set beresp.ttl = 0s;
        set beresp.uncacheable = true;
    }
}
