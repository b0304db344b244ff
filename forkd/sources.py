from forkd.config import Sources, add_flags
