"""
The DNS-over-TLS servers that are asked: they know one answer to everything below lab.example, and recurse for nothing.

Decides how little an upstream does, so that what is measured is whoever forwards to it.  There are two kinds because
of Nagle's algorithm, which holds a small segment back while another one is not acknowledged: Unbound leaves it on for
the connections it accepts, dnsdist turns it off (``strace -f -e setsockopt`` shows TCP_NODELAY for dnsdist and Knot
Resolver, and none for Unbound, NSD and BIND, in the versions of Debian 12).
"""

from __future__ import annotations

import re

from benchmarks.load import ADDRESS
from tests.integration.programs import run
from tests.integration.servers import Server


class NagleOn(Server):
    """
    Unbound, which counts what it is asked.
    """

    program = "unbound"

    def command(self) -> list[str]:
        """
        In the foreground.
        """
        self.config = self.write(f"""
server:
    interface: 127.0.0.1@{self.port}
    tls-port: {self.port}
    tls-service-pem: "{self.certificate}"
    tls-service-key: "{self.key}"
    do-udp: no
    incoming-num-tcp: 300
    tcp-idle-timeout: {self.idle_timeout * 1000}
    num-threads: 1
    username: ""
    chroot: ""
    directory: "{self.folder}"
    pidfile: ""
    use-syslog: no
    module-config: "iterator"
    local-zone: "lab.example." redirect
    local-data: "lab.example. 86400 A {ADDRESS}"
remote-control:
    control-enable: yes
    control-interface: "{self.folder}/control"
    control-use-cert: no
""")
        return [self.executable, "-d", "-c", str(self.config)]

    def asked(self) -> int:
        """
        How many questions came so far.
        """
        told = run("unbound-control", "-c", str(self.config), "stats_noreset")
        found = re.search(r"total\.num\.queries=(\d+)", told)
        assert found, told
        return int(found[1])


class NagleOff(Server):
    """
    dnsdist, which answers by itself.
    """

    program = "dnsdist"

    def command(self) -> list[str]:
        """
        In the foreground.
        """
        config = self.write(f"""
setACL({{"127.0.0.0/8"}})
setSecurityPollSuffix("")
setMaxTCPClientThreads(1)
setTCPRecvTimeout({self.idle_timeout})
addTLSLocal("127.0.0.1:{self.port}", "{self.certificate}", "{self.key}", {{ maxInFlight = 1000 }})
addAction(AllRule(), SpoofAction("{ADDRESS}", {{ ttl = 86400 }}))
""")
        return [self.executable, "--supervised", "--disable-syslog", "-C", str(config), "-l", "127.0.0.1:0"]
