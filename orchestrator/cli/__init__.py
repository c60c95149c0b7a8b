"""`liveroll`, the operators' command: a gRPC client."""
