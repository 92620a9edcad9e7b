"""Attacking trained networks: the suites, the verdict on gradient masking, the transfer matrix."""
