"""What a token or an example of a dataset costs in seconds, from what training on it has taken so far."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.schedule.shares import Shares
from pipeline.types import Spent


def seconds_per_token(spent: Mapping[str, Spent], shares: Mapping[str, float]) -> float | None:
    """Of a mixture of examples; None when a dataset of it was never measured."""
    if not shares or any(name not in spent or not spent[name].examples for name in shares):
        return None
    seconds = sum(share * spent[name].seconds / spent[name].examples for name, share in shares.items())
    tokens = sum(share * spent[name].tokens / spent[name].examples for name, share in shares.items())
    return seconds / tokens if tokens else None


def per_second(shares: Shares, spent: Mapping[str, Spent]) -> Shares:
    """Shares of examples such that each second, not each example, is given as `shares` say; the total stays.

    Datasets that were never measured keep their share.
    """
    known = {name: spent[name].seconds / spent[name].examples for name in shares if _measured(spent.get(name))}
    divided = {name: shares[name] / cost for name, cost in known.items()}
    if not divided:
        return shares
    scale = sum(shares[name] for name in known) / sum(divided.values())
    return {name: divided[name] * scale if name in divided else share for name, share in shares.items()}


def _measured(spent: Spent | None) -> bool:
    return spent is not None and spent.examples > 0 and spent.seconds > 0
