"""How many units, for how long, to see what."""
