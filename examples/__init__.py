"""Studies that stand outside the package; `crosstune run` takes the file of each."""
