"""The lab: real kernels with live update, built here and booted in QEMU.

`build` (`make lab`) fills a cache outside the repository with kernels and a guest root; `paths`
says where they are. Needs Debian and root; nothing of it is in the installed package.
"""
