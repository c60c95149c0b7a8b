"""The blackout path: what `liveroll-agent run` does before it imports anything heavy.

    from node_agent.resume.blackout import resume
    handover = resume(root="", journal_path="/var/lib/liveroll/journal/journal", socket_path="…")

Synchronous, interpreter builtins only; the list of what it imports is pinned by a test, because
every import is time in which workloads stand still (socket, struct, json and os alone cost some
200 ms on a small machine, the builtins used here about 6 ms).
"""
