"""Findings: from scores on test rows to intervals, rivals and plain sentences."""
