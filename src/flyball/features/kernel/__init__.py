"""The one piece of code that answers as-of and window questions: in batch, at ingest and at read."""
