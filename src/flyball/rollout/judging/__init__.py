"""What a rollout does next: pure rules over evidence that arrives judged."""
