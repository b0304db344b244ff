"""The logger: the one process that writes files."""
