"""The tests: they mirror the source, and beside them stand laws, oracles and the house."""
