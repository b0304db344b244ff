"""Handlers of socketserver's and protocols of asyncio, as sessions."""
