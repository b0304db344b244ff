"""Interfaces: what a connection says, as sessions that know protocol and application and no socket."""
