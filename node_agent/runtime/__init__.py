"""What the agent does: the runner, its journal, its link, the workloads' broker."""
