"""Request handlers as they are written for socketserver; nothing here knows forkd."""

import hashlib
import os
import socket
import socketserver


class Lines(socketserver.StreamRequestHandler):
    """The server speaks first; one command per line; "data" takes bytes until the client's end."""

    disable_nagle_algorithm = False
    wbufsize = -1  # so that finish() has something to flush

    def handle(self):
        self.wfile.write(b"220 ready for %s\n" % self.client_address[0].encode())
        self.wfile.flush()
        for line in self.rfile:
            command, _, argument = line.strip().partition(b" ")
            if command == b"quit":
                self.wfile.write(b"221 bye\n")
                return
            if command == b"pid":
                self.wfile.write(b"%d\n" % os.getpid())
            elif command == b"server":
                self.wfile.write(
                    b"%s %d\n"
                    % (self.server.server_address[0].encode(), self.server.server_address[1])
                )
            elif command == b"data":
                digest, size = hashlib.sha256(), 0
                while data := self.rfile.read(65536):
                    digest.update(data)
                    size += len(data)
                self.wfile.write(f"250 {size} {digest.hexdigest()}\n".encode())
            elif command == b"send":
                self.wfile.write(b"x" * int(argument))
            elif command == b"fail":
                raise RuntimeError("failed on purpose")
            else:
                self.wfile.write(b"500 what is " + command + b"?\n")
            self.wfile.flush()


class Raw(socketserver.BaseRequestHandler):
    """setup, handle and finish, over the socket itself."""

    def setup(self):
        self.request.sendall(b"<")

    def handle(self):
        while data := self.request.recv(1000):
            self.request.sendall(data.upper())

    def finish(self):
        self.request.sendall(b">")


class Impatient(Lines):
    timeout = 0.2


class Fails(socketserver.BaseRequestHandler):
    """Fails as its own peers make it fail: "late", "reset" or "refused"."""

    def handle(self):
        how = self.request.recv(100)
        if how == b"refused":
            with socket.socket() as nobody:
                nobody.bind(("127.0.0.1", 0))
                socket.create_connection(nobody.getsockname())
        mine, theirs = socket.socketpair()
        with mine:
            if how == b"late":
                mine.settimeout(0.01)
            else:
                mine.send(b"x")
                theirs.close()  # with something unread: a reset
            mine.recv(1)
