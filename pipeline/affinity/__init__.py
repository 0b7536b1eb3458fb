"""From gradient sketches to groups of datasets: estimate, group, store. No torch.

Shape letters: `D` datasets, `B` micro-batches of one dataset, `N` micro-batches of all datasets, `K` sketch dimension,
`G` parameter groups, `R` resamples.
"""
