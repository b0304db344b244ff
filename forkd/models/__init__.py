"""Concurrency models: a file for each, which ends with its row, and registry.py, the table of them."""
