"""What passes between forkd's processes: heritage, messages, the control socket, the pid file, an upgrade."""
