"""
An upstream at a link-local address, which is one only together with an interface (RFC 4007 §11).
"""

import os
import subprocess
import sys
from pathlib import Path

import dns.message
import pytest

from tests.integration.namespaces import Namespace, joined
from tests.integration.programs import Proxy
from tests.misbehaving.matrix import Misbehaving

_NEAR, _FAR = "fe80::2", "fe80::1"
WWW = dns.message.make_query("www.lab.example.", "A", use_edns=0)


class Far(Misbehaving):
    """
    A server at the far end of a cable.
    """

    def __init__(self, far: Namespace, *arguments) -> None:
        super().__init__(*arguments)
        self.far = far

    def command(self) -> list[str]:
        """
        Inside.
        """
        return self.far.inside([*super().command(), "--interface", f"{_FAR}%cable"])


class Near(Proxy):
    """
    dotproxy at the near end, asked there.
    """

    near: Namespace

    def command(self) -> list[str]:
        """
        Inside.
        """
        return self.near.inside(super().command())

    def dig(self) -> str:
        """
        What dig gets of it.
        """
        words = ["dig", f"@{self.host}", "-p", str(self.port), "www.lab.example.", "A", "+short", "+tries=1", "+time=8"]
        return subprocess.run(self.near.inside(words), check=True, capture_output=True, text=True).stdout


@pytest.fixture
def scene(authority, tmp_path: Path):
    """
    Two ends of a cable, and a server for a name and for its address at the far end.
    """
    near, far = joined()
    near.ip("addr", "add", f"{_NEAR}/64", "dev", "cable", "nodad")
    far.ip("addr", "add", f"{_FAR}/64", "dev", "cable", "nodad")
    certificate, key = authority.issue(["dot.test", _FAR]).write(tmp_path, "server")
    server = Far(far, tmp_path, "healthy", certificate, key, 1)
    try:
        server.start()
        yield near, server
    finally:
        server.stop()
        near.remove()
        far.remove()


@pytest.mark.parametrize(
    "where", ["[fe80::1%cable]:PORT#dot.test", "fe80::1%cable@PORT", "[fe80::1]:PORT%cable#dot.test"]
)
def test_link_local_upstream_answers(where, scene, ca_file, tmp_path):
    """
    By name, or by the address, which stands in the certificate without the interface.
    """
    near, server = scene
    program = Near(tmp_path / "proxy.log", ca_file, (where.replace("PORT", str(server.port)),))
    program.near = near
    program.start()
    try:
        assert program.dig().startswith("10."), program.said()
        verified = "dot.test" if "dot.test" in where else f"{_FAR}%cable"
        assert f"verified as {verified})" in program.said()
    finally:
        program.stop()


def test_probe_and_query_accept_link_local_addresses(scene, ca_file):
    """
    They take it, too.
    """
    near, server = scene
    spec = f"tls://[fe80::1%cable]:{server.port}#dot.test"
    environ = {key: value for key, value in os.environ.items() if not key.startswith("DOTPROXY_")}
    for words in (["probe", spec, "--name", "www.lab.example"], ["query", "www.lab.example", f"@{spec}"]):
        command = near.inside([sys.executable, "-m", "dotproxy", *words, "--ca-file", str(ca_file)])
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env=environ)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "verified as dot.test" in done.stdout
