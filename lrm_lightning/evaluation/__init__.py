"""What evaluate, transfer and report share: records and confidence intervals."""
