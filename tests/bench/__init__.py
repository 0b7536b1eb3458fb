"""Benchmarks: `gst bench NAME`. Every module here with a `main` is one, described by its first line."""
