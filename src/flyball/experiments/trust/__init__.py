"""May the result be believed? Checks of the instrument, not of the effect."""
