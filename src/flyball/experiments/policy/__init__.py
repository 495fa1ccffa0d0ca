"""Bandits, and judging a policy from the log of another."""
