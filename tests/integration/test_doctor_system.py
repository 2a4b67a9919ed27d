"""
dotproxy doctor on a machine whose resolver is dotproxy, and on machines from which queries leave in the clear.

Each is a mount and network namespace in which /etc/resolv.conf is the test's, with a network that has a DNS server.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dotproxy.testing.certificates import Authority
from tests.integration.machine import Link
from tests.integration.namespaces import FAR, Namespace, joined
from tests.integration.test_roaming import Far, Near


class Examined:
    """
    dotproxy in a namespace, an upstream and a DNS server beyond it.
    """

    def __init__(self, folder: Path, near: Namespace, link: Link, arguments: list[str], upstream: str) -> None:
        self.folder, self.near, self.link, self.arguments, self.upstream = folder, near, link, arguments, upstream

    def doctor(self, resolv_conf: str, *more: str) -> tuple[int, dict[str, list[tuple[str, str]]]]:
        """
        Run it with this resolv.conf; return the exit code, and for each check its levels and findings.
        """
        (self.folder / "resolv.conf").write_text(resolv_conf)
        (self.folder / "nsswitch.conf").write_text("hosts: files dns\n")
        mounts = "; ".join(
            f"mount --bind {self.folder}/{name} $(readlink -f /etc/{name})" for name in ("resolv.conf", "nsswitch.conf")
        )
        command = [sys.executable, "-m", "dotproxy", "doctor", "--json", *self.arguments, *more]
        done = subprocess.run(
            self.near.inside(["unshare", "--mount", "sh", "-ec", f'{mounts}; exec "$@"', "sh", *command]),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={key: value for key, value in os.environ.items() if not key.startswith("DOTPROXY_")},
        )
        assert done.stdout.startswith("{"), done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        assert told["healthy"] == (done.returncode == 0)
        found: dict[str, list[tuple[str, str]]] = {}
        for check in told["checks"]:
            found.setdefault(check["name"], []).append((check["level"], check["found"]))
        return done.returncode, found


@pytest.fixture
def examined(tmp_path: Path, authority: Authority, ca_file: Path) -> Iterator[Examined]:
    """
    What is examined.
    """
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("only root may make namespaces, and watch what leaves")
    near, far = joined()
    certificate, key = authority.issue(["dot.test"]).write(tmp_path, "server")
    server = Far(far, tmp_path, "healthy", certificate, key, 1)
    upstream = f"tls://{FAR}:{server.port}#dot.test"
    admin = tmp_path / "admin"
    proxy = Near(near, tmp_path / "proxy.log", ca_file, (upstream,), ("--admin-socket", str(admin)), "127.0.0.1:53")
    link = Link(near, far)
    arguments = ["--listen", "127.0.0.1:53", "--ca-file", str(ca_file), "--socket", str(admin)]
    try:
        server.start()
        proxy.start()
        yield Examined(tmp_path, near, link, arguments, upstream)
    finally:
        proxy.stop()
        server.stop()
        link.stop()
        near.remove()
        far.remove()


def test_correct_setup_is_healthy(examined):
    """
    Everything is ok: names arrive at dotproxy, nothing leaves on port 53, the upstream verifies.
    """
    code, found = examined.doctor("nameserver 127.0.0.1\n", "--upstream", examined.upstream)
    assert {level for checks in found.values() for level, _ in checks} == {"ok"}, found
    assert code == 0
    assert found["arrival"] == [("ok", "4 of 4 test names that were looked up, all were sent to dotproxy")]
    (((_, text)),) = found["upstream dot.test (" + examined.upstream[6:].partition("#")[0] + ")"]
    assert text.startswith("verified as dot.test at ")
    assert examined.link.seen() == []


def test_other_nameserver_is_a_problem(examined):
    """
    Names go to the link's server, in the clear: that is told by the file, by dotproxy's count, and by what left.
    """
    code, found = examined.doctor(f"nameserver {FAR}\n", "--upstream", examined.upstream)
    assert code == 1
    assert found["resolv.conf"] == [("problem", f"queries to nameserver {FAR} leave in the clear")]
    assert found["arrival"][0][0] == "problem"
    assert found["port 53"] == [("problem", f"test names left in the clear, to {FAR}")]
    seen = examined.link.seen()
    assert seen
    assert all(name.split()[0].endswith(".test.") for name in seen)  # it never sends a real name in the clear


def test_second_nameserver_is_a_problem_before_it_is_used(examined):
    """
    While dotproxy answers, the second one is not asked; it is told all the same.
    """
    code, found = examined.doctor(f"nameserver 127.0.0.1\nnameserver {FAR}\n", "--upstream", examined.upstream)
    assert code == 1
    assert found["resolv.conf"][1] == ("problem", f"queries to nameserver {FAR} leave in the clear")
    assert (found["arrival"][0][0], found["port 53"][0][0]) == ("ok", "ok")


def test_upstream_with_another_name_is_a_problem(examined):
    """
    An upstream whose certificate is for another name is a problem.
    """
    wrong = examined.upstream.replace("#dot.test", "#other.test")
    code, found = examined.doctor("nameserver 127.0.0.1\n", "--upstream", wrong)
    assert code == 1
    (((level, text)),) = next(checks for name, checks in found.items() if name.startswith("upstream "))
    assert level == "problem"
    assert "verify" in text


def test_plain_bootstrap_server_is_a_warning(examined):
    """
    bootstrap = udp://… is the operator's choice: a warning.
    """
    bootstrap = examined.folder / "dotproxy.toml"
    bootstrap.write_text(f'bootstrap = ["udp://{FAR}"]\nupstream = ["{examined.upstream}", "tls://dot.example"]\n')
    _, found = examined.doctor("nameserver 127.0.0.1\n", "--config", str(bootstrap))
    assert found["bootstrap"] == [("warning", f"names of upstreams are looked up in the clear at udp://{FAR}:53")]
