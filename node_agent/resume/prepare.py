"""What the agent leaves for its own next boot, at each start: resume.conf and the bundle.

    prepare(Parameters(str(settings.journal), str(settings.broker_socket), mode=…, gid=…, keeper=…))

Only for a real node: an emulated one says all by its environment.
"""

from __future__ import annotations

from node_agent.resume import bundle, mounts, parameters
from node_agent.resume.parameters import Parameters


def prepare(said: Parameters, conf: str = parameters.CONF) -> bool:
    """Write both, if they differ; whether anything was written. Raises OSError, ValueError.

    Args:
        conf: where; another place than the default must be named on the kernel's command line
            (`liveroll.resume=PATH`), and has the bundle beside it in vain: init.py knows one place.
    """
    said.mounts = tuple(mounts.wanted(said.socket, said.keeper))
    wrote = parameters.write(conf, said)
    beside = f"{conf.rpartition('/')[0]}/{bundle.BUNDLE.rpartition('/')[2]}"
    return bundle.write(beside) or wrote
