"""Metrics of rankings, and interleaving of two of them."""
