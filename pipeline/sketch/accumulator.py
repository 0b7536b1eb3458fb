"""Streaming sums of gradient sketches per dataset: everything an affinity estimate needs, small enough to all-reduce.

For each dataset and parameter group the window keeps the sum of the micro-batch sketches, the sum of their squared
norms and their number, separately for two halves of the micro-batches (whose agreement says how far to trust the rest).
Sums add over ranks, so the result does not depend on how many there are (up to float32 rounding).
"""

from __future__ import annotations

from typing import Any

import torch

from pipeline.dist import Comm
from pipeline.errors import SketchError, nearest
from pipeline.sketch.spec import SketchSpec

STATE_VERSION = 1
_SUMS = ("half_sum", "half_sum_sq", "half_total_sq", "half_count", "dropped", "tokens")


class SketchWindow:
    """Sums over one window of micro-batches on this rank.

    Every rank builds its window with the same datasets, groups and spec; a dataset a rank never saw stays zero.

    Args:
        datasets: [D] names, in the order of every result.
        groups: [G] parameter-group names, `GradientSketcher.groups`.
        spec: the projection; sketches of another one are refused.
        keep_batches: also keep each micro-batch's sketch, summed over groups ([K]), for the bootstrap. The memory is
            4K bytes per micro-batch: for probes, not for whole trainings.
        device: where the sums live (the accelerator, when the collective needs it).
    """

    def __init__(
        self,
        datasets: list[str],
        groups: list[str],
        spec: SketchSpec,
        *,
        keep_batches: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        for what, names in (("dataset", datasets), ("parameter group", groups)):
            if not names or len(set(names)) != len(names):
                raise SketchError(f"a window needs {what} names, each once", got=names)
        self.datasets = list(datasets)
        self.groups = list(groups)
        self.spec = spec
        self.keep_batches = keep_batches
        self.device = torch.device(device)
        self._index = {name: position for position, name in enumerate(self.datasets)}
        self.reset()

    def reset(self) -> None:
        """Forget everything; the layout stays."""
        d, g, k = len(self.datasets), len(self.groups), self.spec.k

        def exact(*shape: int) -> torch.Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=self.device)

        self.half_sum = torch.zeros(2, d, g, k, dtype=torch.float32, device=self.device)
        self.half_sum_sq = exact(2, d, g)  # sum over micro-batches of |sketch of one group|^2
        self.half_total_sq = exact(2, d)  # ... of |sketch summed over groups|^2
        self.half_count = exact(2, d)
        self.dropped = exact(d)
        self.tokens = exact(d)
        self._seen = [0] * d
        self._batches: dict[tuple[int, int], torch.Tensor] = {}
        self._keys_given = True

    @property
    def sum(self) -> torch.Tensor:
        """[D, G, K] sum of all kept sketches."""
        return self.half_sum.sum(0)

    @property
    def count(self) -> torch.Tensor:
        """[D] number of kept micro-batches."""
        return self.half_count.sum(0)

    def add(
        self,
        dataset: str,
        sketch: torch.Tensor,
        tokens: int = 0,
        *,
        key: int | None = None,
        spec: SketchSpec | None = None,
    ) -> bool:
        """Add one micro-batch's sketch.

        Args:
            dataset: one of the window's datasets.
            sketch: [G, K], what `GradientSketcher.take` returns.
            tokens: answer tokens in the micro-batch.
            key: the micro-batch's number, unique within its dataset over all ranks (a global index will do). It
                decides the half and the order of kept batches, so that neither depends on the number of ranks.
                Without it micro-batches are numbered as they come, which only one rank alone may do.
            spec: the sketch's own projection, to be checked where it may differ (replayed or received sketches).

        Returns:
            False when the sketch held a NaN or an infinity: then it is only counted in `dropped`.

        Raises:
            SketchError: unknown dataset, another shape or another projection, or a key that was used before.
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
        if self.keep_batches and (d, key) in self._batches:
            raise SketchError("a micro-batch was added twice", where={"dataset": dataset, "key": key})
        self._accumulate(d, sketch, tokens, key)
        return True

    def _accumulate(self, d: int, sketch: torch.Tensor, tokens: int, key: int) -> None:
        half = _half_of(key)
        total = sketch.sum(0)
        self.half_sum[half, d] += sketch
        self.half_sum_sq[half, d] += sketch.double().square().sum(1)
        self.half_total_sq[half, d] += total.double().square().sum()
        self.half_count[half, d] += 1
        self.tokens[d] += tokens
        if self.keep_batches:
            self._batches[d, key] = total.cpu()

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
        """Per dataset [B_i, K], in key order; None unless `keep_batches`."""
        if not self.keep_batches:
            return None
        rows: list[list[torch.Tensor]] = [[] for _ in self.datasets]
        for (d, _), sketch in sorted(self._batches.items(), key=lambda item: item[0]):
            rows[d].append(sketch)
        return [torch.stack(each) if each else torch.zeros(0, self.spec.k) for each in rows]

    def all_reduce(self, comm: Comm) -> SketchWindow:
        """The window over all ranks, on every rank; this rank's own window is left as it is.

        A collective: all ranks call it together. One all-reduce for the sums, one gather for layout and kept batches.

        Raises:
            SketchError: on every rank, when ranks differ in layout or projection, or kept batches cannot be ordered.
        """
        mine = (self._layout(), self._keys_given, {key: sketch.numpy() for key, sketch in self._batches.items()})
        everyone = comm.gather_objects(mine)
        if any(layout != everyone[0][0] for layout, _, _ in everyone):
            raise SketchError(
                "ranks hold windows of different layout",
                got=[layout for layout, _, _ in everyone],
                hint="build the window from the same datasets, groups and spec on every rank",
            )
        if comm.world_size > 1 and self.keep_batches and not all(given for _, given, _ in everyone):
            raise SketchError(
                "kept micro-batches of several ranks have no common order", hint="pass `key` to every SketchWindow.add"
            )
        result = SketchWindow(self.datasets, self.groups, self.spec, keep_batches=self.keep_batches, device=self.device)
        result._unpack(comm.all_reduce_sum(self._pack()))
        result._seen = [int(n) for n in (result.count + result.dropped).tolist()]
        result._keys_given = all(given for _, given, _ in everyone)
        for rank, (_, _, batches) in enumerate(everyone):
            for (d, key), sketch in batches.items():
                if (d, key) in result._batches:
                    raise SketchError(
                        "two ranks sketched the same micro-batch",
                        where={"rank": rank, "dataset": self.datasets[d], "key": key},
                    )
                result._batches[d, key] = torch.from_numpy(sketch)
        return result

    def _layout(self) -> dict[str, Any]:
        return {
            "version": STATE_VERSION,
            "datasets": self.datasets,
            "groups": self.groups,
            "spec": self.spec.to_json(),
            "keep_batches": self.keep_batches,
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
            "batches": torch.stack(list(self._batches.values())) if self._batches else None,
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
        self._batches = {tuple(key): row.clone() for key, row in zip(state["batch_keys"], rows, strict=True)}

    def export(self) -> dict[str, Any]:
        """Plain numpy data with the field names of `pipeline.affinity.estimator.GradientStats`, which has no torch.

        `sum` and `batches` are summed over parameter groups: sketches of different parameters have independent
        signs, so the sum is the sketch of the whole gradient. `group_sum` keeps the groups apart.
        """
        batches = self.batches()
        return {
            "datasets": list(self.datasets),
            "count": self.count.cpu().numpy().astype("int64"),
            "sum": self.half_sum.double().sum((0, 2)).cpu().numpy(),
            "sum_sq": self.half_total_sq.sum(0).cpu().numpy(),
            "batches": None if batches is None else [each.numpy() for each in batches],
            "spec": self.spec.to_json(),
            "half_count": self.half_count.cpu().numpy().astype("int64"),
            "half_sum": self.half_sum.double().sum(2).cpu().numpy(),
            "half_sum_sq": self.half_total_sq.cpu().numpy(),
            "groups": list(self.groups),
            "group_sum": self.half_sum.double().sum(0).cpu().numpy(),
            "group_sum_sq": self.half_sum_sq.sum(0).cpu().numpy(),
            "dropped": self.dropped.cpu().numpy().astype("int64"),
            "tokens": self.tokens.cpu().numpy().astype("int64"),
        }


def _half_of(key: int) -> int:
    """0 or 1, evenly, from the micro-batch number alone.

    A hash rather than the parity: with datasets taken in turn, all of one dataset's numbers may be even.
    """
    mixed = (key * 0x9E3779B97F4A7C15 + 0x7F4A7C15) & 0xFFFFFFFFFFFFFFFF
    mixed ^= mixed >> 29
    return ((mixed * 0xBF58476D1CE4E5B9) >> 61) & 1
