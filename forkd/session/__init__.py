"""One connection as a session, and no socket: the seam to the models, and HTTP/1 for each interface that
serves it."""
