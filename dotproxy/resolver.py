"""
``DoTResolver``: DNS over authenticated TLS for any Twisted application.

Decides nothing by itself: it has a proxy's upstreams and forwarder, without listeners.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred

from dotproxy.config.load import load
from dotproxy.downstream.in_process import ForwarderResolver
from dotproxy.service.builders import build_cache, build_forwarder, build_transfers
from dotproxy.service.tls_files import read_tls_files
from dotproxy.service.upstream_builders import build_upstreams
from dotproxy.telemetry.logs import LoggedEvents
from dotproxy.upstream.verification import Credentials


class DoTResolver(ForwarderResolver):
    """
    An ``IResolver`` in place of ``twisted.names.client.Resolver``.

    ``upstreams`` are SPECs as the ``--upstream`` option takes them; ``settings`` are other settings by their
    configuration keys, as strings, for instance ``ca_file="ca.pem"``.  The environment is not read.  Files are read
    once.  Connections are made when a query needs one.

    :raises ConfigError: with every problem.
    """

    def __init__(self, upstreams: Sequence[str] = (), *, reactor: Any = None, **settings: str) -> None:
        if reactor is None:
            from twisted.internet import reactor
        options: dict[str, Sequence[str]] = {key: [value] for key, value in settings.items()}
        if upstreams:
            options["upstream"] = upstreams
        config = load(options, {}).config
        services: list[IService] = []
        events = LoggedEvents(debug=config.is_debug)
        credentials = Credentials(*read_tls_files(config).credentials(config))
        self._upstreams = build_upstreams(config, reactor, events, services, credentials)
        self._services = [*services, *self._upstreams]
        self._forwarder = build_forwarder(
            config,
            reactor,
            self._upstreams,
            build_transfers(config, reactor, self._upstreams),
            build_cache(config),
        )
        super().__init__(self._forwarder, reactor)
        for service in self._services:
            service.startService()

    def close(self) -> Deferred[Any]:
        """
        Close every connection; return a Deferred that fires when that is done.

        Outstanding queries fail.
        """
        self._forwarder.stop()
        return DeferredList([maybeDeferred(service.stopService) for service in self._services])
