"""HTTP/1 without I/O: bytes in, requests and payload out; answers in, bytes out.

Called by the WSGI session in a child and by the admin endpoint in the master. Nothing here
knows a socket, a clock of its own, or the rest of forkd.
"""
