"""The gRPC services, for operators and for agents."""
