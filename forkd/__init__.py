"""forkd: a prefork daemon for Python network services on Linux."""

import sys

__version__ = "0.1.0"

#: Modules and packages that were there before forkd: of the interpreter, of .pth files and sitecustomize.
STARTED_WITH = frozenset(name.partition(".")[0] for name in sys.modules)
