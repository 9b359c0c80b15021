"""Checkpoints: the ends of a repair, opened, compared, streamed, joined where they are adapters, and written."""
