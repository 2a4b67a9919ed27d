"""
The twistd plugin: ``twistd dotproxy``.

Decides the options of ``twistd dotproxy`` and ``dotproxy run``, and how a configuration that is not usable is reported.
Imports the global reactor, only when twistd calls.

Exit codes: ``EX_CONFIG`` (78) if the configuration is not usable, which a restart does not change; 1 if an address
cannot be bound.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, cast

from twisted.application.service import IService
from twisted.python import usage

from dotproxy.config.describe import origin
from dotproxy.config.load import CONFIG_VARIABLE, Loaded, load
from dotproxy.config.model import Config
from dotproxy.config.schema import SETTINGS
from dotproxy.config.setting import Setting
from dotproxy.errors import ConfigError
from dotproxy.service.drop_privileges import Confinement, choose_user
from dotproxy.service.systemd import notify
from dotproxy.telemetry.lines import suitable_format

if TYPE_CHECKING:
    from dotproxy.service.proxy import Proxy
    from dotproxy.service.reactor import IServiceReactor
    from dotproxy.service.reload import ConfigSource
    from dotproxy.service.workers.supervisor import Supervisor

#: The default name of twistd's pid file.
_PIDFILE = "twistd.pid"


class Options(usage.Options):
    """
    The options of ``twistd dotproxy``: one for each setting of the schema, and ``--config``.
    """

    synopsis = "[options]"
    longdesc = (
        "Forwards plain DNS to upstreams over verified TLS.  Without options it listens on 127.0.0.1:5300"
        " and forwards to Cloudflare and Quad9.  Every option can also be set by an environment variable"
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
        Parse the command line; as part of twistd's, end the program with 78 if the configuration is not usable.
        """
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            if self.parent is None:
                raise
            raise SystemExit(refuse("twistd dotproxy", error)) from None

    def getUsage(self, width: int | None = None) -> str:
        """
        Return the help text, with options in the order of the schema.
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
        # Another user may not delete root's pid file, and in the foreground none is needed.
        if twistd is None or not twistd.get("nodaemon"):  # `twist` has neither option
            return
        if twistd["uid"] is not None and twistd["pidfile"] == _PIDFILE:
            twistd["pidfile"] = ""


def refuse(program: str, error: usage.UsageError) -> int:
    """
    Print why ``program`` cannot start, to the terminal or the journal, and tell systemd for ``systemctl status``;
    return the exit code.
    """
    what, *problems = str(error).splitlines()
    prefix = "<3>" if suitable_format(sys.stderr, os.environ) == "journal" else ""
    print(*(prefix + line for line in (f"{program}: {what}", *problems)), sep="\n", file=sys.stderr)
    notify(os.environ.get("NOTIFY_SOCKET", ""), f"STATUS={what} {'; '.join(problems)}")
    return os.EX_CONFIG


def _option(short: str, long: str, metavar: str, doc: str | None, width: int) -> Iterator[str]:
    """
    Yield the help lines of one option.
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


def _worker_count(config: Config) -> int:
    """
    Return the number of worker processes; 1 means that this process serves by itself.
    """
    from dotproxy.service.workers.cpus import available

    return available() if config.workers == "auto" else int(config.workers)


def _build(config: Config, reactor: IServiceReactor, source: ConfigSource) -> Proxy | Supervisor:
    """
    Return a proxy in this process, or a supervisor of workers.
    """
    count = _worker_count(config)
    if count == 1:
        from dotproxy.service.assembly import build

        return build(config, reactor, source=source)
    from dotproxy.service.listening import inherited_sockets
    from dotproxy.service.systemd import ServiceNotifier, initial_environment
    from dotproxy.service.workers.supervisor import Supervisor

    notifier = ServiceNotifier(os.environ, reactor)
    sockets = inherited_sockets(config, initial_environment())
    return Supervisor(config, reactor, count, notifier=notifier, source=source, sockets=sockets)


def _confine(options: Options, loaded: Loaded) -> Confinement | None:
    """
    Return what gives this process's privileges up; None unless twistd has started it.

    :raises SystemExit: if the user that it is to run as cannot start workers.
    """
    twistd = options.parent
    if twistd is None:
        return None
    confinement = Confinement(loaded.config, options.file, twistd.get("uid"), twistd.get("gid"))
    try:
        confinement.announce(has_workers=_worker_count(loaded.config) > 1)
    except ConfigError as error:
        refusal = usage.UsageError("\n".join(["the configuration cannot be used:", *error.problems]))
        raise SystemExit(refuse("dotproxy", refusal)) from None
    return confinement


def makeService(options: Options) -> IService:
    """
    Return the proxy as twistd runs it; called by twistd.
    """
    from twisted.internet import reactor as global_reactor

    from dotproxy.service.reload import ConfigSource, log, log_warnings
    from dotproxy.service.twistd_service import TwistdService

    loaded = options.loaded
    assert loaded is not None
    warnings = log_warnings(loaded)
    for note in loaded.notes:
        log.info("{note}", note=note)
    source = ConfigSource(
        lambda: load(options.given, os.environ, options.config_file), origin(loaded, options.file), warnings
    )
    reactor = cast("IServiceReactor", global_reactor)
    return TwistdService(_build(loaded.config, reactor, source), reactor, _confine(options, loaded))
