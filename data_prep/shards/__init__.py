"""From plans to shards: atomic writing, executors, and the manifest that completes a dataset."""
