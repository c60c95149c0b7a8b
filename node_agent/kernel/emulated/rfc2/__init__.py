"""KHO and LUO as the seed's thread has them: RFC v2, May 2025.

states      the state machine as a table, and the two couplings of LUO and KHO
memory      what is preserved, by address: all that crosses a kexec
kho         the tree, finalize and abort, the notifier chain
handlers    file handlers; handlers_eventfd and handlers_objects have those beside memfd's
objects     kvmfd, iommufd, vfiofd: what userspace holds, and which kinds there are (object_kinds)
hardware    PCI devices that write to memory whichever kernel runs, and the table they write through
luo_files   files by token
subsystems  kernel subsystems in order, undone in reverse
luo         the state machine at work
kernel      Rfc2: all of it for one boot
"""
