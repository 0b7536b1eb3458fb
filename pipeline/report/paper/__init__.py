"""The papers' tables T1 to T7 from a grid of experiments, and the one page that argues from them."""
