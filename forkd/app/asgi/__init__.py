"""ASGI 3: an application in a worker's asyncio loop, from its lifespan to the bytes of each answer."""
