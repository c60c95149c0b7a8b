"""The blackout path: what a node does after a kexec before it imports anything heavy.

    from node_agent.resume.take import take
    handover = take(root)          # what `liveroll-agent run` does first of all

init         the early init (init=/usr/lib/liveroll/init), which does it before the real init
early        what that does as process 1
blackout     lock the journal, retrieve the sessions, park them, answer the CLAIMs
claims       the broker's protocol, as much of it as is needed there
tokens       sessions made of tokens, where the kernel has none: a process for it (RFC v2)
parking      where session fds wait out the agent's death until FINISH; keeper: the process for it
offer        what an early init keeps for the agent beside them; handover_wire: how it gets there
parameters   where the journal is: environment, or resume.conf

Synchronous, interpreter builtins only; the list of what it imports is pinned by a test, because
every import is time in which workloads stand still (socket, struct, json and os alone cost some
200 ms on a small machine, the builtins used here about 6 ms).
"""
