"""The affinity store: one folder, one writer.

    writer.lock                          who writes (see `lock.py`); readers of versions need no lock
    store.db                             SQLite: runs, probes, which sketches were pushed, versions' index, events
    blobs/<2 hex>/<sha256>.safetensors   pushed sketches under their own digest
    v-*.json, v-*.safetensors, latest*   versions, as `pipeline.affinity.versions` writes them

What a call acknowledged is on the disk: a blob is synced before the row that names it is committed, and SQLite syncs
each commit. What a killed writer leaves behind is at most a blob without a row, which the repeated push takes over.
"""
