"""What is PostgreSQL's own: URLs, what must be in force, what its failures mean and how to mend them."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text

from orchestrator.core.model import Change, NodeRow
from orchestrator.errors import CorruptState, LiverollError, SettingsError, StoreUnavailable, Unsupported
from orchestrator.rpc.pki import Pki, make_pki
from orchestrator.store.factory import make_store
from orchestrator.store.postgres import Postgres
from orchestrator.store.postgres_trouble import trouble
from orchestrator.store.postgres_url import address
from orchestrator.store.sql import SqlStore
from tests.postgres import PASSWORD, USER, database
from tests.postgres import Postgres as Server
from tests.postgres_proxy import Proxy


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[SqlStore]:
    store = make_store(url)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def refused(url: str) -> LiverollError:
    with pytest.raises(LiverollError) as caught:
        async with opened(url):
            pass
    assert PASSWORD not in repr((caught.value.message, caught.value.remedy, caught.value.fields))
    assert caught.value.remedy
    return caught.value


@contextmanager
def server(**settings: str) -> Iterator[Server]:
    with Server(settings) as own:
        yield own


class TestUrl:
    def test_the_password_is_not_shown(self) -> None:
        at = address("postgresql://user:s%40cret@db.example:5433/liveroll?sslmode=verify-full")
        assert str(at) == "postgresql://user@db.example:5433/liveroll"
        assert "cret" not in repr(at)
        assert at.dsn == "postgresql://user:s%40cret@db.example:5433/liveroll?sslmode=verify-full"

    @pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg"])
    def test_schemes(self, scheme: str) -> None:
        assert address(f"{scheme}://h/d").dsn == "postgresql://h/d"
        assert make_store(f"{scheme}://h/d")

    def test_several_hosts_mean_the_one_that_can_be_written(self) -> None:
        assert address("postgresql://a:1,b:2/d").dsn.endswith("?target_session_attrs=read-write")
        kept = address("postgresql://a,b/d?target_session_attrs=primary")
        assert kept.dsn.endswith("?target_session_attrs=primary")

    def test_its_own_options_do_not_reach_the_server(self) -> None:
        at = address("postgresql://h/d?password_file=/run/secrets/pw&durability=unsafe")
        assert (at.dsn, at.password_file, at.unsafe) == ("postgresql://h/d", Path("/run/secrets/pw"), True)
        assert not address("postgresql://h/d").unsafe

    @pytest.mark.parametrize(
        "url",
        [
            "postgresql://h:port/d",
            "postgresql://h/d?durability=high",
            "postgresql://user@h/d?password=secret",
            "postgresql://[h/d",
            "postgresql://h/d?x",
        ],
    )
    def test_what_cannot_be_read_is_refused_without_repeating_it(self, url: str) -> None:
        with pytest.raises(SettingsError) as caught:
            make_store(url)
        assert "secret" not in caught.value.message
        assert caught.value.remedy


class TestPassword:
    async def test_from_a_file_read_at_every_connect(self, postgres: Server, tmp_path: Path) -> None:
        file = tmp_path / "password"
        with database(postgres) as name:
            url = f"postgresql://{USER}@127.0.0.1:{postgres.port}/{name}?password_file={file}"
            assert (await refused(url)).reason == "PASSWORD_FILE"
            file.write_text("wrong\n")
            assert (await refused(url)).reason == "DATABASE_AUTH_FAILED"
            file.write_text(PASSWORD + "\n")
            async with opened(url) as store:
                await store.load()

    async def test_from_the_environment(self, postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        with database(postgres) as name:
            for variable, value in {
                "PGHOST": "127.0.0.1",
                "PGPORT": str(postgres.port),
                "PGUSER": USER,
                "PGDATABASE": name,
                "PGPASSWORD": PASSWORD,
            }.items():
                monkeypatch.setenv(variable, value)
            async with opened("postgresql://") as store:
                await store.load()


class TestTls:
    """The server of the tests speaks none; the proxy in front of it does."""

    @pytest.fixture
    def pki(self, tmp_path: Path) -> Pki:
        return make_pki(tmp_path / "pki", [], [], hosts=["127.0.0.1"])

    @pytest.fixture
    async def proxy(self, postgres_url: str, pki: Pki) -> AsyncIterator[Proxy]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pki.server.certificate, pki.server.key)
        async with Proxy(postgres_url, tls=context) as proxy:
            yield proxy

    async def test_the_servers_name_and_authority_are_verified(self, proxy: Proxy, pki: Pki) -> None:
        url = f"{proxy.url}?sslmode=verify-full&sslrootcert={pki.ca}"
        async with opened(url) as store:
            await store.commit(None, Change((NodeRow("n"),)))
            assert len((await store.load()).rows) == 1
        other = url.replace("127.0.0.1", "localhost")
        assert (await refused(other)).reason == "DATABASE_TLS"

    async def test_another_authority(self, proxy: Proxy, tmp_path: Path) -> None:
        other = make_pki(tmp_path / "other", [], [])
        error = await refused(f"{proxy.url}?sslmode=verify-full&sslrootcert={other.ca}")
        assert error.reason == "DATABASE_TLS"

    async def test_a_server_without_it(self, postgres_url: str, pki: Pki) -> None:
        error = await refused(f"{postgres_url}?sslmode=verify-full&sslrootcert={pki.ca}")
        assert error.reason == "DATABASE_UNREACHABLE"
        assert "TLS" in error.remedy


class TestRefusedAtTheStart:
    async def test_a_wrong_password(self, postgres: Server) -> None:
        error = await refused(postgres.url(password="wrong"))
        assert error.reason == "DATABASE_AUTH_FAILED"
        assert "pg_hba.conf" in error.remedy

    async def test_a_database_that_is_not_there(self, postgres: Server) -> None:
        error = await refused(postgres.url("nowhere"))
        assert error.reason == "DATABASE_MISSING"
        assert "CREATE DATABASE" in error.remedy

    async def test_a_server_that_is_not_there(self) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            error = await refused(f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{port}/d")
        assert error.reason == "DATABASE_UNREACHABLE"
        assert f"127.0.0.1:{port}" in error.remedy

    async def test_a_name_that_nobody_knows(self) -> None:
        error = await refused("postgresql://host.invalid/d")
        assert error.reason == "DATABASE_UNREACHABLE"

    async def test_too_many_connections(self, postgres: Server) -> None:
        with database(postgres) as name:
            postgres.sql("CREATE ROLE few LOGIN PASSWORD 'few' CONNECTION LIMIT 0")
            try:
                url = f"postgresql://few:few@127.0.0.1:{postgres.port}/{name}"
                error = await refused(url)
            finally:
                postgres.sql("DROP ROLE few")
        assert error.reason == "TOO_MANY_CONNECTIONS"
        assert "max_connections" in error.remedy

    async def test_a_user_who_may_not_make_tables(self, postgres: Server) -> None:
        with database(postgres) as name:
            postgres.sql("CREATE ROLE guest LOGIN PASSWORD 'guest'")
            try:
                error = await refused(f"postgresql://guest:guest@127.0.0.1:{postgres.port}/{name}")
            finally:
                postgres.sql("DROP ROLE guest")
        assert error.reason == "DATABASE_FORBIDDEN"

    async def test_a_database_in_another_encoding(self, postgres: Server) -> None:
        postgres.sql("CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0")
        try:
            error = await refused(postgres.url("ascii"))
        finally:
            postgres.drop("ascii")
        assert isinstance(error, Unsupported)
        assert error.reason == "DATABASE_ENCODING"

    async def test_a_database_that_must_not_be_written(self, postgres: Server) -> None:
        with database(postgres) as name:
            postgres.sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
            error = await refused(postgres.url(name))
        assert error.reason == "DATABASE_READ_ONLY"

    async def test_a_standby(self) -> None:
        with server() as own:
            own.stop()
            (own.directory / "data" / "standby.signal").touch()
            own.start()
            error = await refused(own.url("postgres"))
        assert error.reason == "DATABASE_READ_ONLY"
        assert "standby" in error.message

    async def test_an_old_server(self) -> None:
        with Server(version=16) as own:
            error = await refused(own.url("postgres"))
        assert error.reason == "DATABASE_TOO_OLD"
        assert "17" in error.remedy


class TestDurability:
    @pytest.mark.parametrize("name", ["fsync", "full_page_writes"])
    async def test_a_server_that_may_lose_what_it_acknowledged(self, name: str) -> None:
        with server(**{name: "off"}) as own, database(own) as made:
            error = await refused(own.url(made))
            assert (error.reason, error.fields["setting"]) == ("DURABILITY_NOT_IN_FORCE", name)
            async with opened(own.url(made) + "?durability=unsafe") as store:
                await store.load()

    @pytest.mark.parametrize(
        ("configured", "in_force"),
        [
            ("off", "on"),
            ("local", "on"),
            ("remote_write", "on"),
            ("on", "on"),
            ("remote_apply", "remote_apply"),
        ],
    )
    async def test_commits_are_durable_whatever_the_database_has_set(
        self, postgres: Server, configured: str, in_force: str
    ) -> None:
        with database(postgres) as name:
            postgres.sql(f"ALTER DATABASE {name} SET synchronous_commit = {configured}")
            async with opened(postgres.url(name)) as store:
                connection = await store._writer.connect()
                async with connection.begin():
                    found = await connection.execute(text("SHOW synchronous_commit"))
                    assert found.scalar_one() == in_force

    async def test_one_that_is_not_in_force_refuses_the_start(
        self, postgres: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("orchestrator.store.postgres._STRONGER", "SELECT 1")
        with database(postgres) as name:
            postgres.sql(f"ALTER DATABASE {name} SET synchronous_commit = off")
            error = await refused(postgres.url(name))
        assert (error.reason, error.fields["setting"]) == ("DURABILITY_NOT_IN_FORCE", "synchronous_commit")


class TestTrouble:
    """What cannot be brought about here, by the code that the server would give."""

    @pytest.mark.parametrize(
        ("error", "kind", "reason"),
        [
            (asyncpg.DiskFullError(""), StoreUnavailable, "DISK_FULL"),
            (asyncpg.PostgresIOError(""), StoreUnavailable, "DISK_ERROR"),
            (asyncpg.OutOfMemoryError(""), StoreUnavailable, "DATABASE_OVERLOADED"),
            (asyncpg.DataCorruptedError(""), CorruptState, "DATABASE_CORRUPT"),
            (asyncpg.IndexCorruptedError(""), CorruptState, "DATABASE_CORRUPT"),
            (asyncpg.LockNotAvailableError(""), StoreUnavailable, "DATABASE_SLOW"),
            (asyncpg.QueryCanceledError(""), StoreUnavailable, "DATABASE_SLOW"),
            (TimeoutError(), StoreUnavailable, "DATABASE_SLOW"),
            (asyncpg.CannotConnectNowError(""), StoreUnavailable, "DATABASE_UNREACHABLE"),
            (asyncpg.AdminShutdownError(""), StoreUnavailable, "DATABASE_UNREACHABLE"),
            (ConnectionResetError(), StoreUnavailable, "DATABASE_UNREACHABLE"),
            (asyncpg.InterfaceError("closed"), StoreUnavailable, "DATABASE_UNREACHABLE"),
            (asyncpg.InternalClientError("state"), StoreUnavailable, "DATABASE_UNREACHABLE"),
            (asyncpg.IdleInTransactionSessionTimeoutError(""), StoreUnavailable, "SESSION_TIMED_OUT"),
            (asyncpg.UndefinedTableError(""), StoreUnavailable, "SCHEMA_MISSING"),
            (asyncpg.InvalidSchemaNameError(""), StoreUnavailable, "SCHEMA_MISSING"),
            (asyncpg.DivisionByZeroError(""), StoreUnavailable, "STORE_UNAVAILABLE"),
        ],
    )
    def test_by_code(self, error: Exception, kind: type[LiverollError], reason: str) -> None:
        told = trouble(address("postgresql://u:secret@h/d"), error)
        assert (type(told), told.reason) == (kind, reason)
        assert told.remedy
        assert "{" not in told.remedy
        assert "secret" not in repr((told.message, told.remedy, told.fields))

    def test_what_is_told_already_is_passed_on(self) -> None:
        error = StoreUnavailable("x", remedy="y")
        assert trouble(address("postgresql://h/d"), error) is error

    async def test_tables_that_somebody_dropped(self, postgres_url: str, postgres: Server) -> None:
        async with opened(postgres_url) as store:
            name = postgres_url.rpartition("/")[2]
            postgres.sql("DROP TABLE meta", database=name)
            with pytest.raises(StoreUnavailable) as caught:
                await store.changes(0)
        assert caught.value.reason == "SCHEMA_MISSING"

    async def test_an_unreadable_row_is_named(self, postgres_url: str, postgres: Server) -> None:
        async with opened(postgres_url) as store:
            await store.commit(None, Change((NodeRow("n"),)))
            postgres.sql("UPDATE nodes SET doc = '{}'", database=postgres_url.rpartition("/")[2])
            with pytest.raises(CorruptState) as caught:
                await store.load()
        assert caught.value.fields["type"] == "NodeRow"


def test_it_says_what_it_is_without_the_password() -> None:
    database = Postgres(address("postgresql://u:secret@h/d"))
    assert str(database) == "postgresql://u@h/d"
    shown: Any = repr(vars(database))
    assert "secret" not in shown
