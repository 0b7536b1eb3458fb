"""Gradient sketches: a short linear summary of each micro-batch's gradient, taken inside backward.

`spec` names a sketch, `reference` defines it, `cpu` and `gpu` compute it (on GPUs `multi_tensor` launches the kernels
of `triton_kernel`), `projector` picks between them, `hooks` feeds it from a model's gradients, `partition` from
slices of reduced gradients, `accumulator` sums it per dataset, `recorder` does so in training, `check` measures the
error. Shape letters: `D` datasets, `G` parameter groups, `K` sketch dimension, `B` micro-batches.
"""
