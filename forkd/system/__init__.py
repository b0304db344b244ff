"""Kernel facts and nothing else: sockets, signals, handle sets, the accept lock, shared memory, processes."""
