"""Tiles: the gradients of single samples by head, the Fisher that normalises them, and what is computed from them."""
