"""forkd: a prefork daemon for Python network services on Linux."""

__version__ = "0.1.0"
