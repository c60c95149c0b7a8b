"""`liveroll-orchestrator health` and `pki`: what they find, and what they refuse."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from orchestrator import app
from orchestrator.rpc.pki import Pki, make_pki


class Ready(BaseHTTPRequestHandler):
    """/readyz of an orchestrator that is ready."""

    status, said = 200, b"ready\n"

    def do_GET(self) -> None:
        assert self.path == "/readyz"
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.said)))
        self.end_headers()
        self.wfile.write(self.said)

    def log_message(self, format: str, *args: object) -> None:
        """Said nowhere."""


class NotReady(Ready):
    status, said = 503, b"not the leader\n"


class Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A handshake that fails is what some tests want."""


@contextmanager
def serving(
    handler: type[Ready] = Ready, pki: Pki | None = None, *, ask_clients: bool = False
) -> Iterator[int]:
    server = Server(("127.0.0.1", 0), handler)
    if pki is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pki.server.certificate, pki.server.key)
        if ask_clients:
            context.load_verify_locations(pki.ca)
            context.verify_mode = ssl.CERT_REQUIRED
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    """A server of another name than 127.0.0.1, as behind a service's name."""
    return make_pki(tmp_path / "pki", [], ["alice"], hosts=["liveroll.example"])


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("LIVEROLL_CONFIG", "LIVEROLL_HTTP__ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def health(*arguments: object) -> int | str | None:
    with pytest.raises(SystemExit) as caught:
        app.main(["health", *map(str, arguments)])
    return caught.value.code


def settings(directory: Path, port: int, pki: Pki, *, ask_clients: bool = False) -> Path:
    file = directory / "orchestrator.toml"
    ca = f', ca = "{pki.ca}"' if ask_clients else ""
    tls = f'{{cert = "{pki.server.certificate}", key = "{pki.server.key}"{ca}}}'
    file.write_text(f'[http]\naddress = "0.0.0.0:{port}"\ntls = {tls}\n')
    return file


def test_the_settings_say_where_to_ask(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving() as port:
        environment.setenv("LIVEROLL_HTTP__ADDRESS", f"127.0.0.1:{port}")
        assert health() == 0
    assert capsys.readouterr().out == "ready\n"


@pytest.mark.parametrize("ask_clients", [False, True])
def test_beyond_loopback_it_speaks_tls(
    pki: Pki, tmp_path: Path, environment: pytest.MonkeyPatch, *, ask_clients: bool
) -> None:
    with serving(pki=pki, ask_clients=ask_clients) as port:
        file = settings(tmp_path, port, pki, ask_clients=ask_clients)
        assert health("--config", file) == 0
        environment.setenv("LIVEROLL_CONFIG", str(file))
        assert health() == 0


def test_one_that_is_not_ready_is_exit_3(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(NotReady) as port:
        assert health("--http", f"http://127.0.0.1:{port}") == 3
    assert capsys.readouterr().out == "not the leader\n"


def test_one_that_is_not_there_is_exit_6(capsys: pytest.CaptureFixture[str]) -> None:
    assert health("--http", "http://127.0.0.1:1") == 6
    assert "no orchestrator answers at http://127.0.0.1:1" in capsys.readouterr().err


def test_a_url_is_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_pki(tmp_path / "loopback", [], ["alice"])
    other = make_pki(tmp_path / "other", [], [])
    with serving(pki=made) as port:
        url = f"https://127.0.0.1:{port}"
        assert health("--http", url, "--ca", made.ca) == 0
        for ca in ((), ("--ca", other.ca)):
            assert health("--http", url, *ca) == 2
            told = capsys.readouterr().err
            assert f"no secure connection to {url}" in told
            assert "give the CA's certificate with --ca" in told


def test_a_certificate_of_another_name_is_refused(pki: Pki, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(pki=pki) as port:
        assert health("--http", f"https://127.0.0.1:{port}", "--ca", pki.ca) == 2
    assert "the name that the server's certificate has" in capsys.readouterr().err


def test_a_server_that_asks_for_a_certificate_gets_the_one_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_pki(tmp_path / "loopback", [], ["alice"])
    alice = made.operators["alice"]
    with serving(pki=made, ask_clients=True) as port:
        common = ("--http", f"https://127.0.0.1:{port}", "--ca", made.ca)
        assert health(*common, "--cert", alice.certificate, "--key", alice.key) == 0
        assert health(*common) in (2, 6)  # TLS 1.3 tells the refusal by an alert or by hanging up
    assert "--" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--http", "ftp://x"), "is no http URL"),
        (("--http", "https://x", "--ca", "/nonexistent/ca.pem"), "cannot use /nonexistent/ca.pem: No such"),
        (("--http", "https://x", "--ca", __file__), "it holds no certificate"),
        (("--http", "https://x", "--cert", "/nonexistent/c.pem"), "cannot use /nonexistent/c.pem"),
        (("--config", "/nonexistent/settings.toml"), "cannot read /nonexistent/settings.toml"),
    ],
)
def test_mistakes_are_exit_2(
    arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert health(*arguments) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "to mend it:" in said


def test_a_port_that_the_service_chose_is_not_guessed(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("LIVEROLL_HTTP__ADDRESS", "127.0.0.1:0")
    assert health() == 2
    assert "give its address with --http" in capsys.readouterr().err


def test_pki_keeps_an_authority_that_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def pki_into(directory: Path) -> int | str | None:
        with pytest.raises(SystemExit) as caught:
            app.main(["pki", str(directory), "--operator", "alice"])
        return caught.value.code

    directory = tmp_path / "pki"
    assert pki_into(directory) == 0
    authority = (directory / "ca.pem").read_bytes()
    capsys.readouterr()
    assert pki_into(directory) == 2
    told = capsys.readouterr().err
    assert f"{directory}: holds an authority" in told
    assert "Give an empty directory" in told
    assert (directory / "ca.pem").read_bytes() == authority
