"""Numbers that others published, in one place: printed for orientation, labelled, and never averaged with ours.

Sources: arXiv 2605.19101 (GST; SALMONN-13B on 14 full corpora) and arXiv 2601.12494 (TPC and ADS; Qwen2.5-Omni-7B).
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.report.table import Cell, text

SOURCE = "arXiv 2605.19101: SALMONN-13B, 14 full corpora"
LABEL = "published, other data and model"
NOTE = (
    f"Published: weighted token accuracy in percent from {SOURCE}. Another model, other data, no spread given: it "
    "stands here for orientation only and is in none of our averages, comparisons or marks."
)
SECOND_PAPER_NOTE = (
    "arXiv 2601.12494 reports for these regimes (Qwen2.5-Omni-7B, other data) in words: ADS fast early and volatile "
    "later, TPC stable but worse on paralinguistics, the hybrid most balanced. It is not compared with anything here."
)
# Weighted token accuracy in percent, by arm.
FULL_DATA: dict[str, float] = {"mix_all": 74.2, "gst-t2": 74.5, "gst-g3": 75.0}
LOW_RESOURCE: dict[str, float] = {"mix_all": 63.9, "gst-t2": 64.7, "gst-g3": 63.4}
# The order ablation, in words: what the two numbers of the strict cycle stand for is not public to us.
ORDERS: dict[str, str] = {"gst-strict-cycle": "64.0 / 68.2", "gst-g3": "better than reverse", "gst-reverse": "worse"}
TRAINING_TIME = 'training time "about 4 days -> 2 days", "30-40% faster"'


def published_row(numbers: dict[str, float], arms: Sequence[str]) -> tuple[Cell, ...]:
    """A row of reference cells, one an arm; arms without a published number have a dash."""
    cells = (text(f"{numbers[arm]:.1f}" if arm in numbers else "-", mark="reference") for arm in arms)
    return (text(LABEL), *cells)
