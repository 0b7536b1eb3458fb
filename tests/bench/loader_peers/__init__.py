"""Loaders that `gst bench loader` compares: each one in a module with `convert` and `batches`, see `contract`."""
