"""One connection as a session: the protocol and the seam to the models, and no socket."""
