"""
Reloading the configuration of a running service (SIGHUP, ``dotproxy reload``).

Decides the steps, which are the same for one process and for a supervisor of workers: systemd is told, the
configuration is loaded, one that only lacks an earlier restriction is refused (``config.reload_refusals``), the rest is
applied, and the outcome is logged.  What applying changes is decided by the service (``apply_config``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from twisted.logger import Logger

from dotproxy.config.load import Loaded
from dotproxy.config.model import Config
from dotproxy.config.reload_refusals import without_fallbacks
from dotproxy.errors import ConfigError
from dotproxy.service.systemd import ServiceNotifier

log = Logger("dotproxy")


def _no_source() -> Loaded:
    raise ConfigError(["there is no configuration to read: the service was started without one"])


@dataclass(frozen=True, slots=True)
class ConfigSource:
    """
    Where a service's configuration comes from.

    ``load_config`` loads it as it is now (``ConfigError`` if it is not usable).  ``origin`` names the file, options and
    variables for the log; ``warnings`` are those that were logged at the start.
    """

    load_config: Callable[[], Loaded] = _no_source
    origin: str = "given"
    warnings: tuple[str, ...] = ()


class Reloadable(Protocol):
    """
    A service whose configuration can be replaced while it runs.
    """

    @property
    def config(self) -> Config:
        """
        The configuration in effect.
        """

    def apply_config(self, config: Config) -> list[str]:
        """
        Put another configuration into effect; return a phrase for each change.

        :raises ConfigError: if it is not usable; then nothing changes.
        """


class Reloader:
    """
    Reloads one service.

    Owns: the warnings that were logged already.
    Tells: ``service`` (``apply_config``), systemd, the log.

    ``status`` returns the text that systemd shows afterwards.
    """

    def __init__(
        self, service: Reloadable, source: ConfigSource, notifier: ServiceNotifier, status: Callable[[], str]
    ) -> None:
        self._service = service
        self._source = source
        self._notifier = notifier
        self._status = status
        self._warnings = source.warnings

    def reload(self) -> list[str]:
        """
        Load the configuration and apply it; return a phrase for each change.

        :raises ConfigError: with every problem, if it is not usable; then nothing changes.
        """
        self._notifier.reloading()
        try:
            loaded = self._source.load_config()
            changes = self._service.apply_config(without_fallbacks(self._service.config, loaded))
        except ConfigError as error:
            log_problems(error)
            raise
        finally:
            self._notifier.ready(self._status())
        self._warnings = log_warnings(loaded, self._warnings)
        log.info("configuration read: {changes}", changes="; ".join(changes) or "nothing has changed")
        return changes


def log_problems(error: ConfigError) -> None:
    """
    Log why a configuration was refused.
    """
    for problem in error.problems:
        log.error("the configuration stays as it was: {problem}", problem=problem)


def log_warnings(loaded: Loaded, known: Sequence[str] = ()) -> tuple[str, ...]:
    """
    Log the warnings about a configuration that are not ``known``; return all of them.
    """
    for warning in loaded.warnings:
        if warning not in known:
            log.warn("{warning}", warning=warning)
    return loaded.warnings
