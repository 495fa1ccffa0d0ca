"""flyball governs machine-learning models in production."""
