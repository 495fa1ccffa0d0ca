"""One account per guardrail: it observes, and says what its evidence is. One file per kind of evidence."""
