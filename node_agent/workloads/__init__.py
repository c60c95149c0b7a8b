"""Workloads of a node, and what they and the agent's broker say to each other.

protocol    the words on the broker's socket (luo-agent's, and SUSPEND, RESUME, RELEASE)
client      the library a workload's author uses: synchronous, standard library only
example     a workload with provable memory that measures its own pause; example_life: the most of it
early       its way back after a kexec, before it imports anything; memory_head: the first tick
inprocess   ports.Workloads of emulated nodes hosted many a process
hooks       ports.Hooks: commands, none, or a script
memory      guest memory that proves itself; pause, node_clock, tsc: how long it stood still
together    asking many at once; device: taking turns at /dev/liveupdate
"""
