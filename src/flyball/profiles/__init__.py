"""Mergeable column profiles and distances between them (pure)."""
