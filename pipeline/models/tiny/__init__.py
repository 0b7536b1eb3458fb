"""`gst model tiny`: a small random model of a real family, as an ordinary `from_pretrained` folder.

The tokenizer is byte-level BPE trained on the corpora's own text, with the family's special tokens and chat format,
so everything downstream treats it like the published model.
"""

from pipeline.models.tiny.write import describe, read_parameter_count, write_tiny_model

__all__ = ["describe", "read_parameter_count", "write_tiny_model"]
