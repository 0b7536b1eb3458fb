"""Gradient sketches: a short linear summary of each micro-batch's gradient, taken inside backward.

`spec` names a sketch, `reference` defines it, `cpu` and `gpu` compute it, `projector` picks between them, `hooks` feeds
it from a model's gradients, `accumulator` sums it per dataset. Shape letters: `D` datasets, `G` parameter groups,
`K` sketch dimension, `B` micro-batches.
"""
