"""What a user writes about a release: ways to all traffic, guardrails, the calendar. Texts become numbers here."""
