"""
The admin address and the admin socket in the hands of those who mean no good.
"""

import http.client
import json
import os
import socket
import stat
import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from dotproxy.cli.admin_client import UnixConnection
from dotproxy.service.admin.http import MAX_CONNECTIONS, Response
from dotproxy.service.admin.routes import AdminService
from tests.integration.test_admin import get, pause, running, servers

__all__ = ("running", "servers")  # fixtures

#: As another user: ask for the status over a socket, and for every command.
_AS_NOBODY = """
import os, sys
from dotproxy.cli.admin_client import UnixConnection, fetch
import encodings.idna, stringprep  # while its files can be read
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    print(fetch(UnixConnection(sys.argv[1]), "GET", "/status")[0])
    for command in ("flush", "reload", "log", "drain"):
        print(*fetch(UnixConnection(sys.argv[1]), "POST", "/" + command))
except OSError as error:
    print(error.strerror)
"""


def raw(proxy: Any, octets: bytes) -> bytes:
    """
    What is answered to these octets.
    """
    where = proxy.config.admin_listen
    with socket.create_connection((where.host, where.port), 10) as client:
        client.sendall(octets)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    return answer


def factories(proxy: Any) -> list[Any]:
    """
    What serves the address, and the socket.
    """
    return [service._site for service in proxy if isinstance(service, AdminService)]


@pytest_twisted.ensureDeferred
async def test_foreign_host_header_is_refused(running):
    """
    It asks under its own name (DNS rebinding), and sees nothing; whoever asks by address does.
    """
    for host, code in ((b"evil.example:9953", b"421"), (b"127.0.0.1", b"200"), (b"localhost:1", b"200")):
        for path in (b"/metrics", b"/status", b"/healthz"):
            request = b"GET " + path + b" HTTP/1.1\r\nConnection: close\r\nHost: " + host + b"\r\n\r\n"
            answer = await deferToThread(raw, running, request)
            assert answer.startswith(b"HTTP/1.1 " + code), answer[:200]
            assert (b"admin_hosts" in answer) == (code == b"421")
            assert b"text/html" not in answer
            assert b"X-Content-Type-Options: nosniff\r\n" in answer
    assert (await deferToThread(raw, running, b"GET /healthz HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


@pytest_twisted.ensureDeferred
async def test_idle_admin_connections_make_room(running):
    """
    Those that say nothing make room for those that do.
    """
    where = running.config.admin_listen
    clients: list[socket.socket] = []

    def connect() -> None:
        for _ in range(3 * MAX_CONNECTIONS):
            clients.append(socket.create_connection((where.host, where.port), 10))
            clients[-1].send(b"GET /metrics HTTP/1.1\r\n")

    try:
        await deferToThread(connect)
        for _ in range(5):
            assert (await get(running, "/healthz")) == (200, "ok\n")
        assert len(factories(running)[0].connections) <= MAX_CONNECTIONS
    finally:
        for client in clients:
            client.close()


@pytest_twisted.ensureDeferred
async def test_unread_admin_responses_are_bounded(running):
    """
    It is sent what the kernel takes, and at most 64 KiB and one response more; it is read no further, and others are
    served.
    """
    large = Response(200, b"x" * 500_000)
    where = running.config.admin_listen
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((where.host, where.port))
    client.setblocking(False)
    try:
        factory = factories(running)[0]
        respond, factory._respond = factory._respond, lambda request, transport: large
        turns = 0
        while turns < 50:  # a kernel's buffers grow while they are read
            turns = turns + 1 if any(one._is_blocked for one in factory.connections) else 0
            with suppress(BlockingIOError):
                client.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
            await pause()
        factory._respond = respond
        assert (await get(running, "/healthz")) == (200, "ok\n")
        (blocked,) = [one for one in factory.connections if one._is_blocked]
        unsent = len(blocked.transport.dataBuffer) + blocked.transport._tempDataLen
        assert unsent < 65536 + 501_000
        assert len(blocked._received) < 200_000
    finally:
        client.close()


@pytest_twisted.ensureDeferred
async def test_invalid_command_is_400_and_long_command_413(running):
    """
    It is a 400 that says so; so is one that is too long, by another code.
    """

    def post(body: bytes) -> tuple[int, Any]:
        connection = UnixConnection(str(running.config.admin_socket))
        connection.request("POST", "/flush", body, {"Content-Type": "application/x-www-form-urlencoded"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    for body in (b"\xff=1", b"name=\xff\xfe"):
        assert await deferToThread(post, body) == (400, {"error": "the arguments are not UTF-8"})
    assert await deferToThread(post, b"name=" + b"x" * 4000) == (
        400,
        {"error": "label of 4000 octets in " + repr("x" * 4000 + ".")},
    )
    assert (await deferToThread(post, b"name=" + b"x" * 5000))[0] == 413
    assert await deferToThread(post, b"name=www.test") == (200, {"flushed": 0})


def test_admin_socket_is_its_owners(running):
    """
    It is its owner's alone.
    """
    assert stat.S_IMODE(running.config.admin_socket.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="it takes root to be somebody else")
@pytest_twisted.ensureDeferred
async def test_other_user_may_read_but_not_change(running, tmp_path):
    """
    The mode keeps others out; if the operator has changed it, they may look, and are refused whatever changes anything.
    """
    path = str(running.config.admin_socket)
    for folder in (tmp_path, *tmp_path.parents):
        if stat.S_IMODE(folder.stat().st_mode) & 1 == 0:
            folder.chmod(folder.stat().st_mode | 1)

    def ask() -> str:
        ran = subprocess.run([sys.executable, "-c", _AS_NOBODY, path], capture_output=True, check=False, timeout=30)
        return (ran.stdout + ran.stderr).decode()

    assert (await deferToThread(ask)) == "Permission denied\n"
    running.config.admin_socket.chmod(0o666)
    looked, *done = (await deferToThread(ask)).splitlines()
    assert looked == "200"
    assert done == ["403 {'error': 'only root and user 0 may use commands'}"] * 4
    assert not running.is_draining


@pytest_twisted.ensureDeferred
async def test_body_over_tcp_is_refused(running):
    """
    There is nothing to be sent there.
    """

    def post() -> int:
        where = running.config.admin_listen
        connection = http.client.HTTPConnection(where.host, where.port, timeout=10)
        connection.request("POST", "/metrics", b"x" * 1000)
        return connection.getresponse().status

    assert await deferToThread(post) == 413
