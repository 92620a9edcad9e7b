"""The figures, one file a kind: from groups of records to a plot, or ``None``."""
