"""The command `forkd`: what runs in the terminal's process, not in the service's."""
