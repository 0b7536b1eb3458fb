"""From hooks to an affinity estimate: the window's export is what the estimator takes, and the numbers are right."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.affinity.estimator import GradientStats, corrected_gram
from pipeline.affinity.payload import dump_stats, load_stats
from pipeline.affinity.records import spec_digest
from pipeline.affinity.resample import bootstrap, split_half_reliability
from pipeline.sketch.accumulator import SketchWindow
from pipeline.sketch.hooks import GradientSketcher
from pipeline.sketch.spec import SketchSpec


def test_sketched_gram_is_close_to_the_exact_one() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(32, 48), torch.nn.Tanh(), torch.nn.LayerNorm(48), torch.nn.Linear(48, 8)
    )
    spec = SketchSpec(k=4096, seed=1)
    sketcher = GradientSketcher(model.named_parameters(), spec)
    targets = {"low": (0, 1), "low_too": (0, 2), "high": (6, 7)}
    window = SketchWindow(list(targets), sketcher.groups, spec, keep_batches=True)
    exact: dict[str, list[np.ndarray]] = {name: [] for name in targets}
    for key in range(8):
        for name, classes in targets.items():
            model.zero_grad()
            labels = torch.tensor(classes)[torch.randint(2, (32,))]
            with sketcher.micro_batch():
                torch.nn.functional.cross_entropy(model(torch.randn(32, 32)), labels).backward()
            window.add(name, sketcher.take(), tokens=32, key=key)
            exact[name].append(torch.cat([p.grad.flatten() for p in model.parameters()]).numpy())
    stats = GradientStats(**window.export(), cost={"seconds": 1.0}, source="test")
    truth = corrected_gram(GradientStats.from_batches({name: np.stack(rows) for name, rows in exact.items()}))
    sketched = corrected_gram(stats)
    size = np.sqrt(np.outer(np.diag(truth.gram), np.diag(truth.gram)))
    assert (np.abs(sketched.gram - truth.gram) / size).max() < 0.1
    assert np.allclose(sketched.noise, truth.noise, rtol=0.15)
    per_group = corrected_gram(stats, weights=dict.fromkeys(sketcher.groups, 1.0))
    assert (np.abs(per_group.gram - truth.gram) / size).max() < 0.1
    assert sketched.distance_sq[0, 1] < sketched.distance_sq[0, 2]
    loaded = load_stats(dump_stats(stats))
    assert np.array_equal(bootstrap(loaded, 20).gram, bootstrap(stats, 20).gram)
    assert loaded.tokens.tolist() == [256, 256, 256]
    assert split_half_reliability(loaded) == split_half_reliability(stats)


def test_a_store_tells_kinds_of_sketches_apart_as_the_sketch_does() -> None:
    for spec in (SketchSpec(k=64, seed=1), SketchSpec(k=64, seed=1, gradient="sign", model="abc")):
        assert spec_digest(spec.to_json()) == spec.digest
