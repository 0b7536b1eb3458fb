from data_prep.mini.generate import generate, lay_out

__all__ = ["generate", "lay_out"]
