"""What the orchestrator decides: pure functions over rows, without clock, I/O or randomness."""
