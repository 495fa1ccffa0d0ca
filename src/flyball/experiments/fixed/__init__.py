"""Tests that look once: at a sample size fixed before the start."""
