"""Experiments as a whole: design, analysis, verdict, report."""
