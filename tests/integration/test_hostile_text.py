"""
Text from the network, in every place where it is shown: logs, status, metrics, readiness, probe, query, doctor.
"""

import io
import json
from typing import Any

import pytest_twisted
from cryptography import x509
from cryptography.x509.oid import ExtensionOID
from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.logger import globalLogPublisher

from dotproxy.cli import control
from dotproxy.cli.doctor.examination import Running, examine_upstreams
from dotproxy.cli.probe import Prober, probe_all, report_text
from dotproxy.cli.query import CannotAsk, query
from dotproxy.config.load import load
from dotproxy.service.assembly import build
from dotproxy.telemetry.lines import as_json, as_text, for_journal
from dotproxy.testing.server import DotServer
from dotproxy.testing.zone import Zone, address_rdata
from dotproxy.wire.rrtypes import A
from tests.integration.programs import free_port
from tests.integration.test_admin import get, pause

_UGLY = "evil\n<0>forged\x1b[2J.test"


def _is_clean(text: str) -> bool:
    return text.replace("\n", "").replace("\t", "").isprintable() and not text.startswith("<0>") and "\n<0>" not in text


@pytest_twisted.ensureDeferred
async def test_certificate_names_are_escaped_everywhere(authority, ca_file, tmp_path, capsys):
    """
    Its names hold line breaks and escape sequences: nowhere is there a line of its own making, or a control character.
    """
    octets = _UGLY.encode("latin-1")
    san = bytes((0x30, len(octets) + 2, 0x82, len(octets))) + octets
    server = DotServer(Zone({("www.test.", A): [address_rdata("192.0.2.1")]}), authority.issue(san=san))
    port = reactor.listenTCP(0, server.over_tls(reactor), interface="127.0.0.1")
    spec = f"tls://127.0.0.1:{port.getHost().port}#dot.test"
    outs = [io.StringIO() for _ in range(3)]
    observers = [maker(out) for maker, out in zip((as_text, as_json, for_journal), outs, strict=True)]
    for observer in observers:
        globalLogPublisher.addObserver(observer)
    options = {
        "listen": ["127.0.0.1:0"],
        "upstream": [spec],
        "ca_file": [str(ca_file)],
        "admin_listen": [f"127.0.0.1:{free_port()}"],
        "admin_socket": [str(tmp_path / "admin")],
    }
    config = load(options, {}).config
    proxy: Any = build(config, reactor)
    proxy.startService()
    try:
        while not proxy.forwarder.dispatcher.upstream_table.active_upstreams[0].status_record.status.failures:
            await pause()
        code = await deferToThread(control.main, "status", ["--socket", str(tmp_path / "admin")])
        printed = capsys.readouterr().out
        assert code == 0
        assert "the certificate" in printed
        pages = [(await get(proxy, path))[1] for path in ("/status", "/readyz", "/metrics")]
        assert json.loads(pages[0])["upstreams"][0]["error"].isprintable()
        assert "forged" not in pages[2]
        reports = [await Prober(config, reactor).probe(config.upstream[0], "127.0.0.1", port.getHost().port)]
        checks = await examine_upstreams(config, Running(config, None), reactor)
        told = [report_text(reports[0]), str(checks[0].found)]
        try:
            await query(reactor, config, config.upstream[0], "www.test", "A", dnssec=False)
        except CannotAsk as error:
            told.append(str(error))
        told.append(await probed_as_json(config))
    finally:
        for observer in observers:
            globalLogPublisher.removeObserver(observer)
        await proxy.stopService()
        server.abort_connections()
        await port.stopListening()
    logged = [out.getvalue() for out in outs]
    for text in (printed, *pages, *told, *logged):
        assert _is_clean(text), text
    assert all("down: " in text for text in logged)
    assert "forged" in told[0]


async def probed_as_json(config: Any) -> str:
    """
    What `dotproxy probe --json` prints.
    """
    lines: list[str] = []
    await probe_all(Prober(config, reactor), config.upstream, lines.append, as_json=True)
    return "\n".join(lines)


def test_library_does_not_escape_certificate_names(authority):
    """
    The library shows the line break as it is: it is our code that escapes it.
    """
    octets = b"evil\n.test"
    san = bytes((0x30, len(octets) + 2, 0x82, len(octets))) + octets
    names = authority.issue(san=san).certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    assert names.value.get_values_for_type(x509.DNSName) == ["evil\n.test"]
