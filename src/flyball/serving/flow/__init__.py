"""One request from validated rows to logged answers: cache, fallback, patience, recording, shadow."""
