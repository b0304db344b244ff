"""The storage unit: what the processes of a service share. In a process of the application's.

A cache, counters, locks, queues, rate limits and channels, with one API over several engines: a table in
shared memory (`shm:64m`), a file (`sqlite:/path`), and Valkey or Redis (`valkey://host`).
"""
