#!/usr/bin/python3 -ISE
"""The early init: `init=/usr/lib/liveroll/init` on the kernel's command line. See early.py.

Installed beside the packages, so that it finds them where it lies itself.
"""

import sys

sys.path.insert(0, __file__.rpartition("/")[0])

from node_agent.resume import early  # noqa: E402 - the path is known only now

early.main(sys.argv)
