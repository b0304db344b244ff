"""Concurrency models: one file each, over the drivers in drive.py and the registry in registry.py."""
