"""The agent of one node: takes it through live updates of its kernel."""
