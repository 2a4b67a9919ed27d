"""
dotproxy probe and dotproxy query.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.probed import everything, probed, silent
from tests.integration.servers import Unbound


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> dict[str, tuple[int, str]]:
    """
    What is said of each server.
    """
    return {label: (code, text) for label, code, text in everything(tmp_path_factory.mktemp("probed"))}


@pytest.mark.parametrize("label", ["Unbound", "Nsd", "Bind", "KnotResolver", "Dnsdist"])
def test_good_ones(label, said):
    """
    Each can be used, and a pin is shown.
    """
    code, text = said[label]
    assert code == 0, text
    for part in ("verified as dot.test", "TLSv1.", "?pin-sha256=", "answers       NOERROR", "first query", "days left"):
        assert part in text


@pytest.mark.parametrize(
    ("label", "why"),
    [
        ("expired", "the certificate has expired"),
        ("for another name", "the certificate is for other.test, not for dot.test"),
        ("self-signed", "the certificate is self-signed"),
        ("TLS 1.1 only", "tls: "),
        ("silent", "tls: the handshake took more than 2 s"),
    ],
)
def test_bad_ones(label, why, said):
    """
    None is asked anything; it is said why it cannot be used.
    """
    code, text = said[label]
    assert code == 1
    assert why in text
    assert "answers  " not in text
    assert "verified as" not in text


def test_old_tls_is_seen_for_what_it_is(said):
    """
    What it speaks is shown.
    """
    assert "TLSv1.1" in said["TLS 1.1 only"][1]


def test_nobody_is_asked_who_is_not_verified(serve, authority, ca_file):
    """
    The server of another name has no question in its log.
    """
    server = serve(Unbound, certificate=authority.issue(["other.test"]))
    assert probed(ca_file, server.port)[0] == 1
    assert server.questions == []


def test_json_and_idle(serve, ca_file):
    """
    For programs; and how long an idle connection lives.
    """
    server = serve(Unbound, idle_timeout=1)
    code, text = probed(ca_file, server.port, "--json", "--idle", "5")
    (report,) = json.loads(text)
    assert (code, report["is_good"], report["rcode"], report["is_resumed"]) == (0, True, "NOERROR", True)
    assert 0.5 < report["closed_after_s"] < 4
    with silent() as port:
        code, text = probed(ca_file, port, "--json")
    assert (code, json.loads(text)[0]["is_good"]) == (1, False)


def query(ca_file: Path, *words: str) -> tuple[int, str]:
    """
    dotproxy query.
    """
    command = [sys.executable, "-m", "dotproxy", "query", *words, "--ca-file", str(ca_file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_query(serve, ca_file):
    """
    An answer, and who gave it; or one line that says why there is none.
    """
    server = serve(Unbound)
    at = f"@127.0.0.1:{server.port}#dot.test"
    code, text = query(ca_file, "www.lab.example", "AAAA", at)
    assert (code, "2001:db8::1" in text, "verified as dot.test" in text) == (0, True, True)
    assert "192.0.2.1" in query(ca_file, "www.lab.example", at)[1]
    assert query(ca_file, "www.lab.example", "NONSENSE", at)[0] == 1
    assert "is for" in query(ca_file, "www.lab.example", f"@127.0.0.1:{server.port}#other.test")[1]
    assert query(ca_file, "a", "A", "b", at)[0] == 2
    assert query(ca_file, "a", "@nonsense:")[0] == 2
    assert len(server.questions) == 2
