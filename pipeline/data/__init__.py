"""From prepared shards to micro-batches: manifest, index, order, mixture, batches, loader (in the order of the flow).

Nothing in this room imports torch or a model; how examples become tensors is injected as `encode`.
"""
