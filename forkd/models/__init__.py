"""Concurrency models: a file for each, the parts they are made of, and registry.py, the table of them."""
