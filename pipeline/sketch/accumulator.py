"""Streaming sums of gradient sketches per dataset: everything an affinity estimate needs, small enough to all-reduce.

For each dataset and parameter group the window keeps the sum of the micro-batch sketches s_b times their weights w_b,
the sum of w_b^2 |s_b|^2, and the sums of w_b and w_b^2, separately for two halves of the micro-batches (whose agreement
says how far to trust the rest). Weights are answer tokens, where the mean must be the gradient of the mean loss per
token, or 1; an average over windows lets them fade (`absorb`). Sums add over ranks, so the result does not depend on
how many there are (up to float32 rounding).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pipeline.dist import Comm
from pipeline.errors import SketchError, nearest
from pipeline.sketch.spec import SketchSpec, mix64

STATE_VERSION = 2
_SUMS = (
    "half_sum",
    "half_sum_sq",
    "half_total_sq",
    "half_count",
    "half_weight",
    "half_weight_sq",
    "dropped",
    "tokens",
)
_LINEAR = ("half_sum", "half_weight")  # in the weights; these are quadratic:
_QUADRATIC = ("half_sum_sq", "half_total_sq", "half_weight_sq")
MAX_GROUP_BATCHES_BYTES = 256_000_000  # of kept micro-batches with their parameter groups apart, all ranks together

# What one rank says of a window beside its sums: layout, whether keys were given, kept micro-batches by (dataset, key).
_RankInfo = tuple[dict[str, Any], bool, dict[tuple[int, int], tuple[Any, float]]]


def group_batches_fit(micro_batches: int, groups: int, k: int) -> bool:
    """Whether so many micro-batches of all ranks can be kept with their groups apart, in 4 G K bytes each.

    Every rank holds all of them after `all_reduce`; a bound on the whole does not depend on the number of ranks.
    """
    return 4 * micro_batches * groups * k <= MAX_GROUP_BATCHES_BYTES


class SketchWindow:
    """Sums over one window of micro-batches on this rank.

    Every rank builds its window with the same datasets, groups and spec; a dataset a rank never saw stays zero.

    Args:
        datasets: [D] names, in the order of every result.
        groups: [G] parameter-group names, `GradientSketcher.groups`.
        spec: the kind of sketch; sketches of another one are refused.
        keep_batches: also keep each micro-batch's sketch, summed over groups ([K]), for the bootstrap. The memory is
            4K bytes per micro-batch: for probes, not for whole trainings.
        keep_groups: keep them before that sum ([G, K]), G times as much memory, for the bootstrap of some modules
            alone; see `group_batches_fit`.
        device: where the sums live (the accelerator, when the collective needs it).
    """

    def __init__(
        self,
        datasets: list[str],
        groups: list[str],
        spec: SketchSpec,
        *,
        keep_batches: bool = False,
        keep_groups: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        for what, names in (("dataset", datasets), ("parameter group", groups)):
            if not names or len(set(names)) != len(names):
                raise SketchError(f"a window needs {what} names, each once", got=names)
        self.datasets = list(datasets)
        self.groups = list(groups)
        self.spec = spec
        if keep_groups and not keep_batches:
            raise SketchError(
                "parameter groups of kept micro-batches need kept micro-batches", hint="keep_batches=True"
            )
        self.keep_batches = keep_batches
        self.keep_groups = keep_groups
        self.device = torch.device(device)
        self._index = {name: position for position, name in enumerate(self.datasets)}
        self.reset()

    def reset(self) -> None:
        """Forget everything; the layout stays."""
        d, g, k = len(self.datasets), len(self.groups), self.spec.k

        def exact(*shape: int) -> torch.Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=self.device)

        self.half_sum = torch.zeros(2, d, g, k, dtype=torch.float32, device=self.device)
        self.half_sum_sq = exact(2, d, g)  # sum over micro-batches of weight^2 |sketch of one group|^2
        self.half_total_sq = exact(2, d)  # ... of weight^2 |sketch summed over groups|^2
        self.half_count = exact(2, d)
        self.half_weight = exact(2, d)
        self.half_weight_sq = exact(2, d)
        self.dropped = exact(d)
        self.tokens = exact(d)
        self._seen = [0] * d
        self._batches: dict[tuple[int, int], tuple[torch.Tensor, float]] = {}
        self._keys_given = True

    @property
    def sum(self) -> torch.Tensor:
        """[D, G, K] weighted sum of all kept sketches."""
        return self.half_sum.sum(0)

    @property
    def count(self) -> torch.Tensor:
        """[D] number of kept micro-batches."""
        return self.half_count.sum(0)

    @property
    def mean(self) -> torch.Tensor:
        """[D, G, K] weighted mean of the kept sketches; zero for a dataset without any."""
        weight = self.half_weight.sum(0).to(self.half_sum.dtype)
        return self.sum / torch.where(weight > 0, weight, 1.0)[:, None, None]

    def add(
        self,
        dataset: str,
        sketch: torch.Tensor,
        tokens: int = 0,
        *,
        weight: float = 1.0,
        key: int | None = None,
        spec: SketchSpec | None = None,
    ) -> bool:
        """Add one micro-batch's sketch.

        Args:
            dataset: one of the window's datasets.
            sketch: [G, K], what `GradientSketcher.take` returns.
            tokens: answer tokens in the micro-batch; only counted.
            weight: of this micro-batch in the dataset's mean. With the answer tokens as weights the mean is the
                gradient of the mean loss per token, however the examples were cut into micro-batches.
            key: the micro-batch's number, unique within its dataset over all ranks (a global index will do). It
                decides the half and the order of kept batches, so that neither depends on the number of ranks.
                Without it micro-batches are numbered as they come, which only one rank alone may do.
            spec: the sketch's own kind, to be checked where it may differ (replayed or received sketches).

        Returns:
            False when the sketch held a NaN or an infinity: then it is only counted in `dropped`.

        Raises:
            SketchError: unknown dataset, another shape or kind, a weight that is not positive, or a key that was used
                before.
        """
        d = self._position(dataset)
        if spec is not None:
            self.spec.require_same(spec, "SketchWindow.add")
        if tuple(sketch.shape) != (len(self.groups), self.spec.k):
            raise SketchError(
                "a sketch of another layout", got=tuple(sketch.shape), expected=(len(self.groups), self.spec.k)
            )
        if key is None:
            self._keys_given = False
            key = self._seen[d]
        self._seen[d] += 1
        sketch = sketch.detach().to(self.device, torch.float32)
        if not bool(torch.isfinite(sketch).all()):
            self.dropped[d] += 1
            return False
        if not 0 < weight < float("inf"):
            raise SketchError("a micro-batch needs a positive weight", where={"dataset": dataset}, got=weight)
        if self.keep_batches and (d, key) in self._batches:
            raise SketchError("a micro-batch was added twice", where={"dataset": dataset, "key": key})
        self._accumulate(d, sketch, tokens, weight, key)
        return True

    def _accumulate(self, d: int, sketch: torch.Tensor, tokens: int, weight: float, key: int) -> None:
        half = mix64(key) >> 63
        total = sketch.sum(0)
        self.half_sum[half, d] += weight * sketch
        self.half_sum_sq[half, d] += weight**2 * sketch.double().square().sum(1)
        self.half_total_sq[half, d] += weight**2 * total.double().square().sum()
        self.half_count[half, d] += 1
        self.half_weight[half, d] += weight
        self.half_weight_sq[half, d] += weight**2
        self.tokens[d] += tokens
        if self.keep_batches:
            self._batches[d, key] = ((sketch.clone() if self.keep_groups else total).cpu(), weight)

    def absorb(self, window: SketchWindow, half_life: float) -> None:
        """Make this an exponential moving average over windows: age what it holds, then add `window`.

        A micro-batch's weight halves with every `half_life` later micro-batches of its own dataset; all micro-batches
        of one window are of one age, so the result does not depend on which rank ran which. A dataset that `window`
        does not hold keeps its average. `count`, `tokens` and `dropped` are plain totals.

        Raises:
            SketchError: another layout, kept micro-batches, or a half-life that is not positive.
        """
        if not half_life > 0:
            raise SketchError("a half-life is a positive number of micro-batches", got=half_life)
        if window._layout() != self._layout() or self.keep_batches:
            raise SketchError("a window of another layout", got=window._layout(), expected=self._layout())
        fading = 0.5 ** (window.count / half_life)
        for name in _SUMS:
            mine = getattr(self, name)
            power = 1 if name in _LINEAR else 2 if name in _QUADRATIC else 0
            if power:
                mine *= (fading**power).to(mine.dtype).view(1, -1, *[1] * (mine.ndim - 2))
            mine += getattr(window, name)

    def _position(self, dataset: str) -> int:
        if dataset not in self._index:
            like = nearest(dataset, self.datasets)
            raise SketchError(
                "a gradient of a dataset that the window does not know",
                got=dataset,
                expected=", ".join(self.datasets),
                hint=f"did you mean {like}?" if like else None,
            )
        return self._index[dataset]

    def batches(self) -> list[torch.Tensor] | None:
        """Per dataset [B_i, K], in key order, summed over groups; None unless `keep_batches`."""
        rows = [rows for rows, _ in self._kept()]
        return [each.sum(1) if self.keep_groups else each for each in rows] if self.keep_batches else None

    def group_batches(self) -> list[torch.Tensor] | None:
        """Per dataset [B_i, G, K], in key order; None unless `keep_groups`."""
        return [rows for rows, _ in self._kept()] if self.keep_groups else None

    def _kept(self) -> list[tuple[torch.Tensor, list[float]]]:
        """Per dataset the kept sketches, in key order, and their weights."""
        items: list[list[tuple[torch.Tensor, float]]] = [[] for _ in self.datasets]
        for (d, _), item in sorted(self._batches.items(), key=lambda item: item[0]):
            items[d].append(item)
        nothing = torch.zeros(0, *((len(self.groups),) if self.keep_groups else ()), self.spec.k)
        return [
            (torch.stack([row for row, _ in each]) if each else nothing, [weight for _, weight in each])
            for each in items
        ]

    def all_reduce(self, comm: Comm) -> SketchWindow:
        """The window over all ranks, on every rank; this rank's own window is left as it is.

        A collective, see `reduce_together`.
        """
        return reduce_together([self], comm)[0]

    def _merge(self, everyone: list[_RankInfo]) -> None:
        """Take over what the sums do not carry: counters and kept micro-batches of all ranks."""
        self._seen = [int(n) for n in (self.count + self.dropped).tolist()]
        self._keys_given = all(given for _, given, _ in everyone)
        for rank, (_, _, batches) in enumerate(everyone):
            for (d, key), (sketch, weight) in batches.items():
                if (d, key) in self._batches:
                    raise SketchError(
                        "two ranks sketched the same micro-batch",
                        where={"rank": rank, "dataset": self.datasets[d], "key": key},
                    )
                self._batches[d, key] = (torch.from_numpy(sketch), weight)

    def _rank_info(self) -> _RankInfo:
        return (
            self._layout(),
            self._keys_given,
            {key: (sketch.numpy(), weight) for key, (sketch, weight) in self._batches.items()},
        )

    def _layout(self) -> dict[str, Any]:
        return {
            "version": STATE_VERSION,
            "datasets": self.datasets,
            "groups": self.groups,
            "spec": self.spec.to_json(),
            "keep_batches": self.keep_batches,
            "keep_groups": self.keep_groups,
        }

    def _pack(self) -> torch.Tensor:
        """All sums as one float64 vector: one collective, and counts stay exact."""
        return torch.cat([getattr(self, name).double().reshape(-1) for name in _SUMS])

    def _unpack(self, packed: torch.Tensor) -> None:
        start = 0
        for name in _SUMS:
            target = getattr(self, name)
            target.copy_(packed[start : start + target.numel()].view_as(target))
            start += target.numel()

    def state_dict(self) -> dict[str, Any]:
        """This rank's sums, as tensors and plain data; `load_state_dict` refuses another layout."""
        return {
            **self._layout(),
            "sums": {name: getattr(self, name).cpu().clone() for name in _SUMS},
            "seen": list(self._seen),
            "keys_given": self._keys_given,
            "batch_keys": list(self._batches),
            "batches": torch.stack([row for row, _ in self._batches.values()]) if self._batches else None,
            "batch_weights": [weight for _, weight in self._batches.values()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the sums of `state`.

        Raises:
            SketchError: the state has other datasets, groups, projection or version.
        """
        for name, mine in self._layout().items():
            if state.get(name) != mine:
                raise SketchError(
                    "a saved sketch window does not fit this run",
                    where={"key": name},
                    got=state.get(name),
                    expected=mine,
                    hint="start a new window, or resume with the recipe that wrote it",
                )
        for name in _SUMS:
            getattr(self, name).copy_(state["sums"][name])
        self._seen = list(state["seen"])
        self._keys_given = bool(state["keys_given"])
        rows = state["batches"] if state["batches"] is not None else []
        items = zip(state["batch_keys"], rows, state["batch_weights"], strict=True)
        self._batches = {tuple(key): (row.clone(), weight) for key, row, weight in items}

    def export(self) -> dict[str, Any]:
        """Plain numpy data with the field names of `pipeline.affinity.estimator.GradientStats`, which has no torch.

        `sum` and `batches` are summed over parameter groups: sketches of different parameters have independent
        signs, so the sum is the sketch of the whole gradient. `group_sum` keeps the groups apart.
        """
        batches, group_batches = self.batches(), self.group_batches()

        def array(tensor: torch.Tensor, dtype: str = "float64") -> np.ndarray:
            return tensor.cpu().numpy().astype(dtype)  # always a copy: an average goes on changing in place

        return {
            "datasets": list(self.datasets),
            "count": array(self.count, "int64"),
            "sum": array(self.half_sum.double().sum((0, 2))),
            "sum_sq": array(self.half_total_sq.sum(0)),
            "weight": array(self.half_weight.sum(0)),
            "weight_sq": array(self.half_weight_sq.sum(0)),
            "batches": None if batches is None else [each.numpy() for each in batches],
            "batch_weights": None if batches is None else [np.array(weights) for _, weights in self._kept()],
            "spec": self.spec.to_json(),
            "half_count": array(self.half_count, "int64"),
            "half_sum": array(self.half_sum.double().sum(2)),
            "half_sum_sq": array(self.half_total_sq),
            "half_weight": array(self.half_weight),
            "half_weight_sq": array(self.half_weight_sq),
            "groups": list(self.groups),
            "group_sum": array(self.half_sum.double().sum(0)),
            "group_sum_sq": array(self.half_sum_sq.sum(0)),
            "group_batches": None if group_batches is None else [each.numpy() for each in group_batches],
            "dropped": array(self.dropped, "int64"),
            "tokens": array(self.tokens, "int64"),
        }


def reduce_together(windows: Sequence[SketchWindow], comm: Comm) -> list[SketchWindow]:
    """Several windows over all ranks, on every rank: one all-reduce for all sums, one gather for the rest.

    A collective: every rank calls it with as many windows. The ranks' own windows are left as they are.

    Raises:
        SketchError: on every rank, when ranks differ in layout or kind, or kept batches cannot be ordered.
    """
    everyone = comm.gather_objects([window._rank_info() for window in windows])
    for number, window in enumerate(windows):
        infos = [rank[number] for rank in everyone]
        if any(layout != infos[0][0] for layout, _, _ in infos):
            raise SketchError(
                "ranks hold windows of different layout",
                got=[layout for layout, _, _ in infos],
                hint="build the window from the same datasets, groups, spec and base model on every rank",
            )
        if comm.world_size > 1 and window.keep_batches and not all(given for _, given, _ in infos):
            raise SketchError(
                "kept micro-batches of several ranks have no common order", hint="pass `key` to every SketchWindow.add"
            )
    packed = comm.all_reduce_sum(torch.cat([window._pack() for window in windows]))
    results = []
    for number, window in enumerate(windows):
        result = SketchWindow(
            window.datasets,
            window.groups,
            window.spec,
            keep_batches=window.keep_batches,
            keep_groups=window.keep_groups,
            device=window.device,
        )
        size = sum(getattr(result, name).numel() for name in _SUMS)
        result._unpack(packed[:size])
        packed = packed[size:]
        result._merge([rank[number] for rank in everyone])
        results.append(result)
    return results
