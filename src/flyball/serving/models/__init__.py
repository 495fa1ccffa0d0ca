"""Versions in memory: loading and letting go, and the batches in which their rows are answered."""
