"""Synthetic gradients of a small model that are as hard for a sketch as real ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch

# Name -> [outputs, inputs]. Inputs are commensurate with every sketch size, as in real models: without rotation an
# outlier input feature then meets itself in one bucket, row after row.
LAYERS = {"mlp.up": (512, 2048), "mlp.down": (256, 4096), "attention": (384, 1024)}
# How much of one common direction each gradient holds: cosines of both signs, up to about 0.6.
SHARES = (2.0, 1.5, 1.0, 0.4, 0.0, -0.6)
DEGREES_OF_FREEDOM = 3
OUTLIERS = 4  # input features of each layer
OUTLIER_SCALE = 30


@dataclass(frozen=True)
class Gradients:
    """[count, numel] for each layer, and the exact cosines of all pairs of whole gradients."""

    layers: dict[str, torch.Tensor]
    cosines: torch.Tensor

    @property
    def count(self) -> int:
        return len(next(iter(self.layers.values())))

    @property
    def whole(self) -> torch.Tensor:
        """[count, n]"""
        return torch.cat(list(self.layers.values()), dim=1)


def heavy_tailed_gradients(seed: int, shrink: int = 1) -> Gradients:
    """Student-t noise on a common direction, log-normal rows and columns, and outlier input features.

    Args:
        shrink: divides the number of rows of every layer.
    """
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: (rows // shrink, columns) for name, (rows, columns) in LAYERS.items()}
    layers = {name: _layer(*shape, generator) for name, shape in shapes.items()}
    return Gradients(layers, pair_cosines(torch.cat(list(layers.values()), dim=1)))


def pair_cosines(vectors: torch.Tensor) -> torch.Tensor:
    """Of all pairs of [..., count, n]: [..., pairs] float64."""
    unit = torch.nn.functional.normalize(vectors.double(), dim=-1)
    count = vectors.shape[-2]
    upper = torch.triu_indices(count, count, 1)
    return (unit @ unit.mT)[..., upper[0], upper[1]]


def energy_share(gradients: torch.Tensor, share: float) -> float:
    """Part of the squared norm that the largest `share` of coordinates holds: the mean over gradients [count, n]."""
    energy = gradients.double().square()
    top = energy.topk(max(1, round(share * energy.shape[1])), dim=1).values.sum(1)
    return float((top / energy.sum(1)).mean())


def _layer(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    shape = (len(SHARES), rows, columns)
    common = torch.randn(rows, columns, generator=generator)
    chi2 = torch.zeros(shape)
    for _ in range(DEGREES_OF_FREEDOM):
        chi2 += torch.randn(shape, generator=generator).square()
    noise = torch.randn(shape, generator=generator) / (chi2 / DEGREES_OF_FREEDOM).sqrt()
    grads = torch.tensor(SHARES)[:, None, None] * common + noise
    grads *= torch.randn(rows, 1, generator=generator).exp() * torch.randn(columns, generator=generator).exp()
    grads[:, :, torch.randperm(columns, generator=generator)[:OUTLIERS]] *= OUTLIER_SCALE
    return grads.reshape(len(SHARES), -1)
