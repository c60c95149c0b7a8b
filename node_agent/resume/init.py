#!/usr/bin/python3 -ISE
"""The early init: `init=/usr/lib/liveroll/init` on the kernel's command line. See early.py, bundle.py.

Installed beside the packages, so that it finds them where it lies itself.
"""

import posix
import sys


def bundled():  # type: ignore[no-untyped-def]  # an annotation is an import, or work
    """early.main, out of the one file that the agent has written. Raises what may go wrong."""
    import marshal
    from _frozen_importlib_external import MAGIC_NUMBER

    fd = posix.open("/var/lib/liveroll-agent/resume.bundle", posix.O_RDONLY | posix.O_CLOEXEC)
    about = posix.fstat(fd)
    data = posix.read(fd, about.st_size)
    posix.close(fd)
    if about.st_uid not in (0, posix.geteuid()) or about.st_mode & 0o022:
        raise ImportError  # this is root's code
    if data[: len(MAGIC_NUMBER)] != MAGIC_NUMBER:
        raise ImportError
    for name, code in marshal.loads(data[len(MAGIC_NUMBER) :]):  # noqa: S302 - root wrote it
        module = sys.modules[name] = type(sys)(name)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
        exec(code, module.__dict__)  # noqa: S102 - the same
    return module.main


def plain():  # type: ignore[no-untyped-def]
    """early.main, from its modules."""
    for name in [name for name in sys.modules if name.startswith("node_agent")]:
        del sys.modules[name]
    sys.path.insert(0, __file__.rpartition("/")[0])
    from node_agent.resume import early

    return early.main


try:
    try:
        main = bundled()  # type: ignore[no-untyped-call]
    except Exception:  # noqa: BLE001 - whatever it is, the plain modules may do
        main = plain()  # type: ignore[no-untyped-call]
    main(sys.argv)
finally:
    # A damaged installation must not cost the boot: without process 1 the kernel panics. What Python
    # ignores and sets for itself is undone, as early.become() does.
    import _signal  # type: ignore[import-not-found]

    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(number, _signal.SIG_DFL)
    if posix.environ.get(b"LC_CTYPE") == b"C.UTF-8":
        del posix.environ[b"LC_CTYPE"]
    posix.execve("/sbin/init", ["/sbin/init", *sys.argv[1:]], posix.environ)
