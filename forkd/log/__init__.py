"""The error log and the access log, as a process writes them."""
