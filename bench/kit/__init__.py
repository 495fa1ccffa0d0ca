"""What several benches share: the models of a run, and a real project that serves them."""
