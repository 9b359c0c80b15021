"""What a mixture is beside its weights: the `log` of events, rows for `replay`, what `storage` writes, and `exports` for servers."""
