"""
The twistd plugin: ``twistd dotproxy``.

Decides how options are spelled on twistd's command line, and how a configuration that cannot be used is
reported there.  The only place that knows the global reactor.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from twisted.application.service import IService
from twisted.python import usage

from dotproxy.collector import settle
from dotproxy.config.load import Loaded, load
from dotproxy.config.model import Config
from dotproxy.config.schema import SETTINGS, Setting
from dotproxy.errors import ConfigError


class Options(usage.Options):
    """
    The options of ``twistd dotproxy``; one for each setting of the schema, and ``--config``.
    """

    synopsis = "[options]"
    longdesc = (
        "Forwards plain DNS to upstreams over verified TLS.  Without options it listens on 127.0.0.1:5300"
        " and asks Cloudflare and Quad9.  Every option can also be set by an environment variable"
        " (--tcp-idle-timeout: DOTPROXY_TCP_IDLE_TIMEOUT) or in a TOML file; options win over the"
        " environment, the environment over the file.  Try: dig @127.0.0.1 -p 5300 example.org"
    )

    def __init__(self) -> None:
        super().__init__()
        self.given: dict[str, list[str]] = {}
        self.config_file: str | None = None
        self.loaded: Loaded | None = None

    def opt_config(self, path: str) -> None:
        """
        A TOML file with any of these settings.
        """
        self.config_file = path

    def opt_version(self) -> None:
        """
        Print dotproxy's version and exit.
        """
        from dotproxy import __version__

        print(f"dotproxy {__version__}")
        raise SystemExit(0)

    def postOptions(self) -> None:
        """
        Load the configuration.
        """
        try:
            self.loaded = load(self.given, os.environ, self.config_file)
        except ConfigError as error:
            raise usage.UsageError("\n".join(["the configuration cannot be used:", *error.problems])) from None


def _taker(setting: Setting) -> Callable[[Options, str], None]:
    def take(self: Options, value: str) -> None:
        self.given.setdefault(setting.key, []).append(value)

    default = setting.default
    shown = " ".join(default) if setting.is_list and setting.key != "allow_from" else default
    suffix = "" if default in (None, ()) or setting.key == "allow_from" else f" [default: {shown}]"
    take.__doc__ = setting.help + suffix
    return take


for _setting in SETTINGS:
    setattr(Options, f"opt_{_setting.key}", _taker(_setting))
    if _setting.short:
        setattr(Options, f"opt_{_setting.short}", getattr(Options, f"opt_{_setting.key}"))


def _heed(reactor: Any, proxy: Any) -> None:
    """
    SIGHUP: read the configuration again.  A second signal to stop: stop now.
    """

    def reload() -> None:
        with suppress(ConfigError):  # which was logged
            proxy.reload()

    def stop_now() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: reactor.callFromThread(proxy.stop_now))

    signal.signal(signal.SIGHUP, lambda *_: reactor.callFromThread(reload))
    reactor.addSystemEventTrigger("before", "shutdown", stop_now)


def _build(config: Config, reactor: Any) -> Any:
    """
    A proxy in this process, or one that is several.
    """
    from dotproxy.workers.processors import available

    count = available() if config.workers == "auto" else int(config.workers)
    if count == 1:
        from dotproxy.assembly import build

        return build(config, reactor)
    from dotproxy.systemd import Manager, inherited, initial_environment
    from dotproxy.workers.supervisor import Supervisor

    manager = Manager(os.environ, reactor)
    return Supervisor(config, reactor, count, manager=manager, sockets=inherited(initial_environment()))


def makeService(options: Options) -> IService:
    """
    Return the proxy as a service; called by twistd.
    """
    from twisted.internet import reactor

    from dotproxy.downstream.sockets import CannotBind
    from dotproxy.proxy import log

    assert options.loaded is not None
    for warning in options.loaded.warnings:
        log.warn("{warning}", warning=warning)
    proxy = _build(options.loaded.config, reactor)
    proxy.reread = lambda: load(options.given, os.environ, options.config_file).config

    bind = proxy.privilegedStartService

    def bind_or_exit() -> None:
        try:
            bind()
        except CannotBind as problem:
            for line in str(problem).splitlines():
                log.critical("{line}", line=line)
            raise SystemExit(1) from None

    proxy.privilegedStartService = bind_or_exit
    reactor.callWhenRunning(settle)
    reactor.callWhenRunning(_heed, reactor, proxy)
    return cast(IService, proxy)
