"""
The twistd plugin: ``twistd dotproxy``.

Decides how options are spelled on the command lines of twistd and of ``dotproxy run``, and how a start that cannot
succeed is reported there.  The only place that knows the global reactor.

Exit codes: ``EX_CONFIG`` (78) if the configuration cannot be used, which no other try will change; 1 if an address
cannot be listened on.
"""

from __future__ import annotations

import os
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, cast

from twisted.application.service import IService
from twisted.python import usage

from dotproxy.config.describe import origin
from dotproxy.config.load import CONFIG_VARIABLE, Loaded, load
from dotproxy.config.model import Config
from dotproxy.config.schema import SETTINGS
from dotproxy.config.setting import Setting
from dotproxy.errors import ConfigError
from dotproxy.service.drop_privileges import Confinement, choose_user
from dotproxy.service.gc_tuning import freeze
from dotproxy.service.systemd import notify
from dotproxy.telemetry.lines import suited_to

#: What twistd calls its pid file unless it is told otherwise.
_PIDFILE = "twistd.pid"


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

    @property
    def file(self) -> str | None:
        """
        The configuration file: ``--config``, or else ``DOTPROXY_CONFIG``.
        """
        return self.config_file or os.environ.get(CONFIG_VARIABLE) or None

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        Parse the command line.  As a part of twistd's it ends the program if it cannot be used.
        """
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            if self.parent is None:
                raise
            raise SystemExit(refuse("twistd dotproxy", error)) from None

    def getUsage(self, width: int | None = None) -> str:
        """
        Return what there is, in the order of the schema.
        """
        width = width or int(os.environ.get("COLUMNS", "80"))
        chunks = ["Options:", *_option("", "config", "FILE", self.opt_config.__doc__, width)]
        for setting in SETTINGS:
            taker = getattr(self, f"opt_{setting.key}")
            chunks += _option(setting.short or "", setting.option, setting.metavar, taker.__doc__, width)
        chunks += _option("", "version", "", self.opt_version.__doc__, width)
        chunks += _option("", "help", "", "Print this and exit.", width)
        return "\n".join([*chunks, "", *textwrap.wrap(self.longdesc, width), ""])

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
        twistd = self.parent
        if twistd is not None:
            choose_user(self.loaded.config.user, twistd)
        # Whoever it becomes may not delete what root has made; in the foreground nobody needs it.
        if twistd is None or not twistd.get("nodaemon"):  # as `twist`, which knows neither
            return
        if twistd["uid"] is not None and twistd["pidfile"] == _PIDFILE:
            twistd["pidfile"] = ""


def refuse(program: str, error: usage.UsageError) -> int:
    """
    Say why ``program`` cannot start: the problems and nothing else, to the terminal or the journal, and to systemd for
    ``systemctl status``.  Return the exit code.
    """
    what, *problems = str(error).splitlines()
    prefix = "<3>" if suited_to(sys.stderr, os.environ) == "journal" else ""
    print(*(prefix + line for line in (f"{program}: {what}", *problems)), sep="\n", file=sys.stderr)
    notify(os.environ.get("NOTIFY_SOCKET", ""), f"STATUS={what} {'; '.join(problems)}")
    return os.EX_CONFIG


def _option(short: str, long: str, metavar: str, doc: str | None, width: int) -> Iterator[str]:
    """
    Yield the lines about one option.
    """
    yield f"  {f'-{short}, ' if short else '    '}--{long}{f'={metavar}' if metavar else ''}"
    indent = " " * 10
    yield textwrap.fill(" ".join((doc or "").split()), width, initial_indent=indent, subsequent_indent=indent)


def _taker(setting: Setting) -> Callable[[Options, str], None]:
    def take(self: Options, value: str) -> None:
        self.given.setdefault(setting.key, []).append(value)

    shown = " ".join(map(str, setting.defaults))
    suffix = "" if setting.default in (None, ()) or setting.key == "allow_from" else f" [default: {shown}]"
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


def _count(config: Config) -> int:
    """
    How many processes serve.
    """
    from dotproxy.service.workers.cpus import available

    return available() if config.workers == "auto" else int(config.workers)


def _build(config: Config, reactor: Any) -> Any:
    """
    A proxy in this process, or one that is several.
    """
    if (count := _count(config)) == 1:
        from dotproxy.service.assembly import build

        return build(config, reactor)
    from dotproxy.service.listener_certificate import sockets_for_tls
    from dotproxy.service.systemd import Manager, inherited, initial_environment
    from dotproxy.service.workers.supervisor import Supervisor

    manager = Manager(os.environ, reactor)
    environment = initial_environment()
    sockets, tls_sockets = inherited(environment), sockets_for_tls(config, environment)
    return Supervisor(config, reactor, count, manager=manager, sockets=sockets, tls_sockets=tls_sockets)


def makeService(options: Options) -> IService:
    """
    Return the proxy as a service; called by twistd.
    """
    from twisted.internet import reactor

    from dotproxy.downstream.sockets import CannotBind
    from dotproxy.service.proxy import log, log_warnings

    assert options.loaded is not None
    warnings = log_warnings(options.loaded)
    for note in options.loaded.notes:
        log.info("{note}", note=note)
    proxy = _build(options.loaded.config, reactor)
    proxy.warnings = warnings
    proxy.origin = origin(options.loaded, options.file)
    proxy.load_config = lambda: load(options.given, os.environ, options.config_file)

    confinement: Confinement | None = None
    if options.parent is not None:  # started by twistd: the process is ours, and nobody else's in it
        twistd = options.parent
        confinement = Confinement(options.loaded.config, options.file, twistd.get("uid"), twistd.get("gid"))
        try:
            confinement.announce(has_workers=_count(options.loaded.config) > 1)
        except ConfigError as error:
            told = usage.UsageError("\n".join(["the configuration cannot be used:", *error.problems]))
            raise SystemExit(refuse("dotproxy", told)) from None
        reactor.callWhenRunning(confinement.serving)

    bind = proxy.privilegedStartService

    def bind_or_exit() -> None:
        try:
            bind()
        except CannotBind as problem:
            for line in str(problem).splitlines():
                log.critical("{line}", line=line)
            notify(os.environ.get("NOTIFY_SOCKET", ""), f"STATUS={str(problem).replace(chr(10), '; ')}")
            raise SystemExit(1) from None
        if confinement is not None:
            confinement.bound()

    proxy.privilegedStartService = bind_or_exit
    reactor.callWhenRunning(freeze)
    reactor.callWhenRunning(_heed, reactor, proxy)
    return cast(IService, proxy)
