"""Kernel artifacts: building them, checking them, and serving them to nodes."""
