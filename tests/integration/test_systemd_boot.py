"""
The units under a booted systemd, installed by the commands that docs/deploy.md has: what they promise, systemd does.

The machine is a Debian in a container (``nspawn``) without a network; what is asked are names that dotproxy answers by
itself.
"""

import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator

import dns.message
import dns.rcode
import pytest

from tests.integration.nspawn import TOP, Machine, debian
from tests.integration.programs import wait_until

pytestmark = pytest.mark.soak

CONFIGURATION = "/etc/dotproxy/dotproxy.toml"
LOCALHOST = dns.message.make_query("localhost.", "A").to_wire()

#: Asks over UDP or TCP, and prints the answer in hexadecimal; runs in the machine, whose Python has no dnspython.
CLIENT = """
import socket, struct, sys
transport, host, port, patience, query = sys.argv[1:]
family = socket.AF_INET6 if ":" in host else socket.AF_INET
client = socket.socket(family, socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM)
client.settimeout(float(patience))
client.connect((host, int(port)))
octets = bytes.fromhex(query)
client.sendall(octets if transport == "udp" else struct.pack("!H", len(octets)) + octets)
print(client.recv(4096)[0 if transport == "udp" else 2:].hex())
"""

#: Has a port until it is ended.
SQUATTER = "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('127.0.0.1', 53)); s.recv(1)"


def documented(after: str) -> str:
    """
    The commands that docs/deploy.md has in its first console block after a text.
    """
    page = (TOP / "docs" / "deploy.md").read_text("utf-8")
    _, found, rest = page.partition(after)
    assert found, after
    block = rest.partition("```console\n")[2].partition("```")[0]
    return "\n".join(re.findall("^# (.*)$", block, re.MULTILINE))


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> str:
    """
    What `pip install .` needs in the machine, which has no network.
    """
    folder = tmp_path_factory.mktemp("wheels")
    project = tomllib.loads((TOP / "pyproject.toml").read_text("utf-8"))
    needed = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--python-version=3.11"]
    done = subprocess.run([*command, f"--dest={folder}", *needed], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no packages to install in the machine: {done.stderr[-400:]}")
    return str(folder)


@pytest.fixture(scope="module")
def installed(wheels, tmp_path_factory) -> Iterator[Machine]:
    """
    The machine, with dotproxy as docs/deploy.md installs it, on port 53.
    """
    machine = Machine(debian(), tmp_path_factory.mktemp("machine") / "console", binds={TOP: "/src", wheels: "/wheels"})
    machine.start()
    try:
        pip = "export PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1"
        machine.shell(f"cd /src\n{pip}\n{documented('## systemd')}", timeout=300)
        yield machine
    finally:
        machine.stop()


@pytest.fixture
def machine(installed) -> Machine:
    """
    The machine with the service running, however the test before has left it.
    """
    configure(installed)
    installed.run("systemctl", "stop", "squatter", check=False)
    installed.shell("systemctl disable --now dotproxy.socket; rm -rf /etc/systemd/system/dotproxy.service.d")
    installed.shell("ip address flush dev lo scope global; systemctl daemon-reload; systemctl reset-failed")
    installed.run("systemctl", "restart", "dotproxy")
    return installed


def configure(machine: Machine, *lines: str, listen: str = '"127.0.0.1:53", "[::1]:53"') -> None:
    """
    Write the configuration file.
    """
    machine.write(CONFIGURATION, "\n".join([f"listen = [{listen}]", *lines, ""]))


def ask(machine: Machine, host: str = "127.0.0.1", transport: str = "udp", patience: float = 5) -> bool:
    """
    Whether dotproxy answers there.
    """
    arguments = (transport, host, "53", str(patience), LOCALHOST.hex())
    done = machine.run("python3", "-c", CLIENT, *arguments, check=False)
    if done.returncode:
        return False
    answer = dns.message.from_wire(bytes.fromhex(done.stdout))
    return answer.rcode() == dns.rcode.NOERROR and bool(answer.answer)


def shown(machine: Machine, unit: str, *properties: str) -> list[str]:
    """
    What systemd knows of a unit.
    """
    return [machine.run("systemctl", "show", "--value", f"--property={one}", unit).stdout.strip() for one in properties]


def log_since(machine: Machine, mark: int) -> list[str]:
    """
    The service's part of the journal, without the first ``mark`` lines.
    """
    return machine.journal("dotproxy.service").splitlines()[mark:]


def test_documented_install_serves(machine):
    """
    The service serves, over UDP and TCP; `dotproxy` is on PATH; a start is a few lines, none of them Twisted's.
    """
    assert shown(machine, "dotproxy", "ActiveState", "UnitFileState") == ["active", "enabled"]
    assert all(ask(machine, host, transport) for host in ("127.0.0.1", "::1") for transport in ("udp", "tcp"))
    assert machine.run("dotproxy", "version").stdout.startswith("dotproxy ")
    mark = len(machine.journal("dotproxy.service").splitlines())
    machine.run("systemctl", "restart", "dotproxy")
    lines = log_since(machine, mark)
    begins = ["dotproxy 0.", "listening on 127.0.0.1:53", "listening on [::1]:53", "upstreams: ", "ready"]
    at = [next(number for number, line in enumerate(lines) if line.startswith(begin)) for begin in begins]
    assert at == sorted(at)
    assert at[-1] - at[0] < 8, lines
    assert lines[at[0]].endswith(f"configuration: {CONFIGURATION}")
    assert "twist" not in "".join(lines).lower()


def test_systemctl_reload_fails_on_a_mistake(machine):
    """
    `systemctl reload` needs no /bin/kill; it fails if there is a mistake, and then nothing has changed.
    """
    assert machine.run("test", "-e", "/bin/kill", check=False).returncode
    for more in ((), ('admin_socket = "/run/dotproxy/admin"',)):
        configure(machine, *more)
        machine.run("systemctl", "restart", "dotproxy")
        pid, mark = shown(machine, "dotproxy", "MainPID"), len(machine.journal("dotproxy.service").splitlines())
        configure(machine, *more, "padding = 256")
        machine.run("systemctl", "reload", "dotproxy")
        told = "configuration read: padding is 256, was 128"
        wait_until(lambda mark=mark, told=told: told in "\n".join(log_since(machine, mark)), "it was read")
        configure(machine, *more, "padding = 1024", 'policy = "x"')
        assert machine.run("systemctl", "reload", "dotproxy", check=False).returncode
        assert "'x' is not a policy" in "\n".join(log_since(machine, mark))
        assert shown(machine, "dotproxy", "ActiveState") == ["active"]
        assert shown(machine, "dotproxy", "MainPID") == pid
    assert "up for" in machine.run("dotproxy", "status", "--socket", "/run/dotproxy/admin").stdout


@pytest.mark.parametrize("workers", [1, 2])
def test_no_capability_is_left(workers, machine):
    """
    Once port 53 is bound no process has a capability, or can gain one; a reload works. The unit's limits are in effect.
    """
    configure(machine, f"workers = {workers}", 'cache_file = "/var/lib/dotproxy/cache"', 'log_level = "debug"')
    mark = len(machine.journal("dotproxy.service").splitlines())
    machine.run("systemctl", "restart", "dotproxy")
    wait_until(lambda: ask(machine) and ask(machine, "::1", "tcp"), "it serves")
    (main,) = shown(machine, "dotproxy", "MainPID")
    children = machine.run("cat", f"/proc/{main}/task/{main}/children").stdout.split()
    assert len(children) == (0 if workers == 1 else workers)
    for pid in (main, *children):
        text = machine.shell(f"cat /proc/{pid}/task/*/status").stdout
        found = {name: set(re.findall(rf"^{name}:\s*(\w+)$", text, re.MULTILINE)) for name in ("CapInh", "CapPrm")}
        found |= {name: set(re.findall(rf"^{name}:\s*(\w+)$", text, re.MULTILINE)) for name in ("CapEff", "CapAmb")}
        assert set(map(frozenset, found.values())) == {frozenset({"0" * 16})}, text
        assert set(re.findall(r"^NoNewPrivs:\s*(\d)$", text, re.MULTILINE)) == {"1"}
    limits = shown(machine, "dotproxy", "MemoryMax", "MemoryHigh", "TasksMax", "OOMPolicy")
    assert limits == [str(512 << 20), "infinity", "1024", "continue"]
    configure(machine, f"workers = {workers}", 'cache_file = "/var/lib/dotproxy/cache"', "padding = 256")
    machine.run("systemctl", "reload", "dotproxy")
    wait_until(lambda: "padding is 256, was 128" in "\n".join(log_since(machine, mark)), "it was read")
    assert ask(machine)
    said = "\n".join(log_since(machine, mark))
    # What the bounding set has takes a capability to change that the service never had.
    assert "privileges were given up; the bounding set: operation not permitted" in said
    machine.run("systemctl", "restart", "dotproxy")
    file = "cache" if workers == 1 else "cache.1"
    assert machine.run("test", "-s", f"/var/lib/dotproxy/{file}", check=False).returncode == 0
    assert "cannot be written" not in said


def test_reload_of_a_half_written_file_fails(machine):
    """
    `systemctl reload` fails where the file lacks what it had given, and nothing changes; restart takes it, and a line
    says whom it asks.
    """
    admin = 'admin_socket = "/run/dotproxy/admin"'
    configure(machine, admin, 'upstream = ["10.255.255.53#dns.corp.example"]', 'allow_from = ["127.0.0.0/8", "::1"]')
    machine.run("systemctl", "restart", "dotproxy")
    mark = len(machine.journal("dotproxy.service").splitlines())
    configure(machine, admin)
    assert machine.run("systemctl", "reload", "dotproxy", check=False).returncode
    told = "the configuration stays as it was: upstream: nothing sets it any more, and it would fall back from"
    wait_until(lambda: told in "\n".join(log_since(machine, mark)), "it is told")
    assert "the configuration stays as it was: allow_from: " in "\n".join(log_since(machine, mark))
    machine.run("systemctl", "restart", "dotproxy")
    said = "\n".join(log_since(machine, mark))
    assert f"no upstream in {CONFIGURATION}: asking cloudflare and quad9, over TLS" in said
    assert ask(machine)


def test_mistake_is_not_restarted(machine):
    """
    One start, exit code 78, and `systemctl status` says what is wrong.
    """
    configure(machine, 'policy = "x"', "paddin = 128")
    mark = len(machine.journal("dotproxy.service").splitlines())
    assert machine.run("systemctl", "restart", "dotproxy", check=False).returncode
    state = shown(machine, "dotproxy", "ActiveState", "NRestarts", "ExecMainStatus")
    assert state == ["failed", "0", "78"]
    status = machine.run("systemctl", "status", "dotproxy", check=False).stdout
    assert re.search(r'Status: "the configuration cannot be used: .*paddin.*; did you mean padding\?', status), status
    assert re.search(r"policy \(.*\): 'x' is not a policy", status), status
    time.sleep(3)  # longer than RestartSec
    assert shown(machine, "dotproxy", "ActiveState", "NRestarts") == ["failed", "0"]
    said = "\n".join(log_since(machine, mark))
    assert said.count("the configuration cannot be used:") == 1
    assert "Usage:" not in said
    configure(machine)
    machine.run("systemctl", "start", "dotproxy")
    assert ask(machine)


@pytest.mark.parametrize("workers", [1, 2])
def test_missing_address_is_served_once_it_exists(workers, machine):
    """
    The others serve at once, it does when it is there; nothing is started again for that.
    """
    listen = '"127.0.0.1:53", "192.168.77.1:53", "[fd00::77]:53"'
    configure(machine, f"workers = {workers}", 'admin_listen = "192.168.77.1:9953"', listen=listen)
    mark = len(machine.journal("dotproxy.service").splitlines())
    machine.run("systemctl", "restart", "dotproxy")
    pid = shown(machine, "dotproxy", "MainPID")
    assert ask(machine)
    assert not ask(machine, "192.168.77.1", patience=0.3)
    machine.run("ip", "address", "add", "192.168.77.1/24", "dev", "lo")
    machine.run("ip", "address", "add", "fd00::77/64", "dev", "lo")
    for transport in ("udp", "tcp"):
        assert ask(machine, "192.168.77.1", transport)
    fetch = "import urllib.request as r; print(r.urlopen('http://192.168.77.1:9953/healthz', timeout=5).status)"
    assert machine.run("python3", "-c", fetch).stdout == "200\n"
    # An IPv6 address is checked for duplicates first.
    wait_until(lambda: ask(machine, "fd00::77", "tcp"), "it answers over IPv6", 10)
    assert ask(machine, "fd00::77")
    assert shown(machine, "dotproxy", "NRestarts", "MainPID") == ["0", *pid]
    said = "\n".join(log_since(machine, mark))
    assert said.count("listening on 192.168.77.1:53 (UDP, TCP), once this machine has that address") == 1
    assert said.count("listening on [fd00::77]:53 (UDP, TCP), once this machine has that address") == 1
    assert "listening on 127.0.0.1:53 (UDP, TCP)\n" in said


def test_taken_port_is_retried_without_limit(machine):
    """
    While another program has the port it is started again and again, more often than systemd's limit is by default.
    """
    machine.run("systemctl", "stop", "dotproxy")
    machine.write("/etc/systemd/system/dotproxy.service.d/soon.conf", "[Service]\nRestartSec=50ms\n")
    machine.write("/run/systemd/system/squatter.service", f'[Service]\nExecStart=/usr/bin/python3 -c "{SQUATTER}"\n')
    machine.shell("systemctl daemon-reload; systemctl start squatter; systemctl start --no-block dotproxy")
    wait_until(lambda: int(shown(machine, "dotproxy", "NRestarts")[0]) >= 7, "it was started seven times")
    machine.shell("rm -r /etc/systemd/system/dotproxy.service.d; systemctl daemon-reload")  # so that there is a pause
    told = 'Status: "cannot listen on 127.0.0.1 port 53 (UDP): the address is in use by user root"'
    wait_until(
        lambda: told in machine.run("systemctl", "status", "dotproxy", check=False).stdout, "systemctl status tells why"
    )
    machine.run("systemctl", "stop", "squatter")
    wait_until(lambda: ask(machine), "it serves")
    wait_until(lambda: shown(machine, "dotproxy", "ActiveState") == ["active"], "its upstreams were tried")


def test_queries_wait_during_a_restart_with_the_socket_unit(machine):
    """
    In the documented order the service serves what systemd has opened, and a query waits while it is restarted.
    """
    refused = machine.run("systemctl", "start", "dotproxy.socket", check=False)
    assert refused.returncode  # which is why the order is documented
    configure(machine, listen='"127.0.0.1:5300"')
    machine.shell(documented("so first it is stopped"))
    assert shown(machine, "dotproxy.socket", "ActiveState", "UnitFileState") == ["active", "enabled"]
    assert all(ask(machine, host, transport) for host in ("127.0.0.1", "::1") for transport in ("udp", "tcp"))
    machine.run("systemctl", "stop", "dotproxy")
    assert ask(machine, patience=20)  # which starts it
    machine.run("systemctl", "restart", "dotproxy")
    assert ask(machine)
    assert shown(machine, "dotproxy", "ActiveState", "NRestarts") == ["active", "0"]
    configure(machine)
    machine.shell(documented("To go back to `listen`"))
    assert shown(machine, "dotproxy.socket", "ActiveState", "UnitFileState") == ["inactive", "disabled"]
    assert ask(machine, "127.0.0.1", "tcp")


def test_mistake_behind_the_socket_unit_is_not_restarted(machine):
    """
    Queries that wait do not start the service for ever; when it is mended, the documented command opens the sockets.
    """
    machine.shell(documented("so first it is stopped"))
    configure(machine, 'policy = "x"')
    mark = len(machine.journal("dotproxy.service").splitlines())
    assert machine.run("systemctl", "restart", "dotproxy", check=False).returncode
    ask(machine, patience=0.3)
    wait_until(lambda: shown(machine, "dotproxy.socket", "ActiveState") == ["failed"], "systemd has closed the sockets")
    assert "\n".join(log_since(machine, mark)).count("the configuration cannot be used:") <= 7
    configure(machine)
    machine.shell(documented("When the cause is mended:"))
    assert shown(machine, "dotproxy.socket", "ActiveState") == shown(machine, "dotproxy", "ActiveState") == ["active"]
    assert ask(machine)
