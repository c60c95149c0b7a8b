"""The orchestrator: plans live kernel updates over a fleet, and carries the plan out."""
