"""What the orchestrator serves over HTTP: metrics, health, and artifacts."""
