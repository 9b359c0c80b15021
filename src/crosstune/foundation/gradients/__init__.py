"""Gradients: blocks of a task's rows, and the gradient of each block's mean loss by parameter."""
