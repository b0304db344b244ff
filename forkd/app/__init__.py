"""Interfaces (WSGI, asyncio, socketserver): sessions, which know protocol and application, and no socket."""
