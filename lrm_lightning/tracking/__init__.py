"""Where metrics go: ``metrics.csv`` always, and the loggers that the user chose."""
