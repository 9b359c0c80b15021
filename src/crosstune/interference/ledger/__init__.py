"""The forgetting ledger: a loss change summed along the path of the weights, by component; and rollback, which undoes it."""
