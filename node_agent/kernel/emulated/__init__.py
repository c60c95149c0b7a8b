"""A kernel with LUO, KHO and kexec in userspace: real memfds, every rule of the uapi.

image       EmulatedImage: what a kernel image can do; FileImages (sidecar files), ImageTable (a dict)
files       the memfd handler: which fds can be preserved, and what is kept of them
model       LuoModel: sessions, device, image and boots of one node; raises OSError like a kernel
wire        the ioctl-decoding layer (struct bytes in, struct bytes out) over the model
clock       EmulatedClock (ports.Clock): boottime restarts at a boot, the TSC does not
inprocess   EmulatedNode, Boot, InProcessKernel: many nodes in one process, virtual time welcome
process     `python -m node_agent.kernel.emulated.process --root DIR -- COMMAND…`: a process that
            *is* the kernel of one node and kills and restarts the node's userspace
client      ProcessKernel (ports.Kernel) over a node root's sockets
syncclient  the same calls, blocking, from interpreter builtins only; works on real LUO fds too

Where the emulation differs from a kernel (a process cannot freeze an inode):
- growing, shrinking or sealing a preserved memfd succeeds at once; the freeze then refuses the
  kexec with EPERM (size) or EBUSY (write seal), and says which file it was. Punching a hole is
  not seen.
- a retrieved memfd keeps its name, its inode number and its holes.
- userspace is dead when the shutdown phase begins, not when the jump is made.
- leaked memory is counted, not withheld.
"""
