"""What the orchestrator does: commits plans, takes in reports, keeps links."""
