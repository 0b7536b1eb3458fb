"""The affinity service: one store shared by many jobs and people over HTTP, and the page that shows it.

`tokens` and `settings` are plain; everything else needs FastAPI and is imported only where a service is started.
"""
