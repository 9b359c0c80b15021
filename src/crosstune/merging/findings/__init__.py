"""Findings: from scores on reported rows to intervals, rivals and plain sentences."""
