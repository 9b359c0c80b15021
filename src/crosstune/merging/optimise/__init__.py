"""Search: the mathematics of a repair; it knows losses and slopes at points of a box, and no model."""
