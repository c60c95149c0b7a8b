"""The kernel's side of a node: the ABI, its failures, the real kernel, the emulated one and its faults.

abi        ioctl numbers and struct layouts, session names, reboot and kexec_file_load constants
failure    OSError of a kernel call -> errors.KernelError with reason, retry class and remedy
faults     FaultPlan, the vocabulary of scripted and seeded faults ("refuse_freeze@1,slow_boot=3.0")
tsc        the time stamp counter, read from Python
real/      ports.Kernel and ports.Clock of this machine (see its docstring)
emulated/  a second implementation of ports.Kernel (see its docstring)

Importing this package imports nothing: the blackout path goes through it.
"""
