"""What is durable: the store port over SQL, and in memory."""
