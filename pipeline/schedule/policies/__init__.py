"""Weights that follow gradients or losses, one formula a file."""
