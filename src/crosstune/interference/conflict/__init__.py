"""Conflict: whether the gradients of two tasks agree, at one state and over windows of states of a training."""
