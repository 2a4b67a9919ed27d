"""
The query log of the real program: a JSON object for each response, from one process and from workers.
"""

import json
from typing import Any

import dns.message
import pytest

from tests.integration.programs import Proxy, wait_until
from tests.integration.servers import Unbound


class JsonProxy(Proxy):
    """
    dotproxy with a query log, whose lines are JSON objects.
    """

    def is_ready(self) -> bool:
        """
        It says so.
        """
        return '"message": "ready' in self.said()


def logged(program: Proxy) -> list[dict[str, Any]]:
    """
    The lines of the query log.
    """
    events = [json.loads(line) for line in program.said().splitlines() if line.startswith("{") and line.endswith("}")]
    return [event for event in events if event["namespace"] == "dotproxy.queries" and "source" in event]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_json_lines_have_every_field(serve, ca_file, tmp_path, workers):
    """
    Each has type and rcode by name, the time it took, where it came from and which upstream answered.
    """
    upstream = serve(Unbound).upstream
    options = ("--workers", workers, "--query-log", "clear", "--log-format", "json")
    program = JsonProxy(tmp_path / "proxy.log", ca_file, (upstream,), options, cache=True)
    program.start()
    try:
        for name, rtype in (("www.lab.example.", "HTTPS"), ("WWW.lab.example.", "HTTPS"), ("nas.lan.", "TYPE65280")):
            program.ask(dns.message.make_query(name, rtype).to_wire())
        wait_until(lambda: len(logged(program)) == 3, "all are logged")
        first, second, third = sorted(logged(program), key=lambda line: line["time"])
    finally:
        program.stop()
    assert [first[key] for key in ("transport", "client", "name", "rcode")] == [
        "udp",
        "127.0.0.1",
        "www.lab.example.",
        "NOERROR",
    ]
    assert [line["type"] for line in (first, second, third)] == ["HTTPS", "HTTPS", "TYPE65280"]
    assert [line["source"] for line in (first, second, third)] == ["upstream", "cache", "local"]
    assert first["upstream"].startswith("dot.test")
    assert "upstream" not in second
    assert first["duration_ms"] > second["duration_ms"] >= 0
    assert (third["rcode"], third["qtype"]) == ("NXDOMAIN", 65280)
