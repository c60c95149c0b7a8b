"""Workloads as nobody wants them, speaking luo-agent's protocol by hand: `python odd_workload.py KIND …`.

fails SOCKET ID PIDFILE          says FAILED whenever it is to be preserved
stranger SOCKET ID UID ANSWERS [COMMAND…]
                                 another user: asks for ID again and again, notes what it hears
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time


def connect(path: str) -> socket.socket:
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(path)
        except OSError:
            sock.close()
            time.sleep(0.001)
        else:
            return sock


def fails(path: str, id: str, pidfile: str) -> None:
    with open(pidfile, "w", encoding="utf-8") as file:
        file.write(str(os.getpid()))
    while True:
        sock = connect(path)
        sock.sendall(json.dumps({"cmd": "SUBSCRIBE", "id": id}).encode() + b"\n")
        while True:
            data, fds, _, _ = socket.recv_fds(sock, 4096, 4)
            for fd in fds:
                os.close(fd)
            if not data:
                break
            if b"START_PRESERVATION" in data:
                words = {"cmd": "FAILED", "id": id, "error": "FILE_UNPRESERVABLE: ENOENT"}
                sock.sendall(json.dumps(words).encode() + b"\n")
        sock.close()


def stranger(path: str, id: str, uid: str, answers: str, *commands: str) -> None:
    out = open(answers, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - for life
    os.setgroups([])
    os.setgid(int(uid))
    os.setuid(int(uid))
    while True:
        for command in commands or ("CLAIM", "SUBSCRIBE"):
            sock = connect(path)
            sock.sendall(json.dumps({"cmd": command, "id": id, "extensions": ["suspend"]}).encode() + b"\n")
            try:
                data, fds, _, _ = socket.recv_fds(sock, 4096, 4)
            except ConnectionResetError:
                data, fds = b"", []
            words = json.loads(data.split(b"\n")[0]) if data else {}
            out.write(
                json.dumps([os.getpid(), command, words.get("event"), words.get("reason"), len(fds)]) + "\n"
            )
            sock.close()
            time.sleep(0.1)


if __name__ == "__main__":
    {"fails": fails, "stranger": stranger}[sys.argv[1]](*sys.argv[2:])  # type: ignore[operator]
