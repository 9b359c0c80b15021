"""Search: the mathematics of a repair; it knows losses and slopes at points of a space, and no model."""
