"""The tests' own PostgreSQL: it ends with its test process, and takes its files along."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

from tests.postgres import Postgres, database

PATIENCE_S = 30.0


def test_it_ends_with_the_process_that_started_it_even_if_that_is_killed() -> None:
    program = (
        "import sys; from tests.postgres import Postgres; server = Postgres().start();"
        "print(server.pid, server.directory, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        pid, directory = owner.stdout.readline().split()
        server = os.pidfd_open(int(pid))
        owner.kill()
    try:
        assert select.select([server], [], [], PATIENCE_S)[0], "the server still runs"
    finally:
        os.close(server)
    with Postgres() as other:  # the next one sweeps
        assert other.directory.exists()
        assert not Path(directory).exists()
    assert not other.directory.exists()


def test_stopped_killed_and_started_again_it_has_what_was_committed() -> None:
    with Postgres() as server, database(server) as name:
        server.sql("CREATE TABLE t (n int)", database=name)
        for number, again in enumerate((server.restart, lambda: (server.kill(), server.start()))):
            server.sql(f"INSERT INTO t VALUES ({number})", database=name)
            port = server.port
            again()
            assert server.port == port
        assert server.sql("SELECT n FROM t", database=name) == [["0"], ["1"]]
