"""From log records to evidence: closed bins, one account per guardrail, and the journal that makes a replay exact."""
