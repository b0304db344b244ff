"""WSGI (PEP 3333): one request, from its head to its answer."""
