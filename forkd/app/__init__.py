"""Interfaces: what a connection says, as sessions that know no socket."""
