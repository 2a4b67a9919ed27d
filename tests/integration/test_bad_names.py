"""
A real server that hangs up at some queries: what others notice, and how often it is sent them.
"""

import re
import socket
import time
from collections import Counter

import dns.edns
import dns.message
import pytest

from dotproxy.testing.client import make_query
from tests.integration.programs import wait_until
from tests.integration.servers import Unbound

A, MAILB = 1, 253


def ask_all(proxy, queries: list[bytes], rate: float) -> dict[int, tuple[int, float]]:
    """
    Send queries at a rate, from one client; return the rcode each got, and after how many seconds, by ID.
    """
    sent: dict[int, float] = {}
    got: dict[int, tuple[int, float]] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((proxy.host, proxy.port))
        client.settimeout(0.002)
        begun = time.monotonic()
        while len(got) < len(queries) and time.monotonic() - begun < len(queries) / rate + 8:
            now = time.monotonic()
            while len(sent) < len(queries) and len(sent) <= (now - begun) * rate:
                query = queries[len(sent)]
                sent[int.from_bytes(query[:2], "big")] = now
                client.send(query)
            try:
                reply = client.recv(4096)
            except TimeoutError:
                continue
            ident = int.from_bytes(reply[:2], "big")
            got[ident] = (reply[3] & 15, time.monotonic() - sent[ident])
    return got


@pytest.mark.parametrize("tries", [1, 2], ids=["first", "again"])
def test_denied_names_fail_and_others_are_answered(serve, proxy, tries):
    """
    Names that Unbound denies are SERVFAIL within two seconds and sent three times at most; all others are answered.
    """
    server = serve(Unbound, denied="ads.lab.example.")
    started = proxy(server.upstream)
    for number in range(tries):
        names = [f"n{number}-{n}.wild.lab.example." for n in range(200)]
        names[10::25] = [f"x{number}-{n}.ads.lab.example." for n in range(len(names[10::25]))]
        got = ask_all(started, [make_query(name, A, ident=n) for n, name in enumerate(names)], 100)
        rcodes = {n: rcode for n, (rcode, _) in got.items()}
        assert rcodes == {n: 2 if ".ads." in name else 0 for n, name in enumerate(names)}
        assert max(took for n, (_, took) in got.items() if ".ads." in names[n]) < 2
    wait_until(lambda: ".ads." in " ".join(server.questions), server)
    sends = Counter(re.findall(r"info: 127\.0\.0\.1 (\S+) A IN", "\n".join(server.questions)))
    assert max(sends.values()) <= 3
    answer = dns.message.from_wire(
        started.ask(dns.message.make_query("last.ads.lab.example.", "A", use_edns=0).to_wire())
    )
    (error,) = [option for option in answer.options if isinstance(option, dns.edns.EDEOption)]
    assert error.code == 23


def test_refused_queries_cost_others_nothing(serve, proxy):
    """
    A client that asks 300 queries a second of a kind that Unbound refuses, and above 100 a second drops with the
    connection, costs others nothing.
    """
    server = serve(Unbound)
    started = proxy(server.upstream)
    queries = [
        make_query(f"r{n}.lab.example.", MAILB, ident=n) if n % 7 else make_query(f"n{n}.wild.lab.example.", A, ident=n)
        for n in range(1050)
    ]
    got = ask_all(started, queries, 350)
    assert {rcode for n, (rcode, _) in got.items() if not n % 7} == {0}
    assert len(got) == len(queries)
