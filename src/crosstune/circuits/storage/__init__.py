"""Kept: what a circuit measurement leaves, in memory or in a folder that a killed run goes on from."""
