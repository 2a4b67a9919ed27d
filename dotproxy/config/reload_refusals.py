"""
Refusal of reloads that would reset a security-relevant setting to its default.

Decides when a reload would replace a configured value of a guarded setting by the default because nothing sets it any
more.  The most likely reason is a file that is half-written or was cut off by a full disk.  A value that is set
explicitly is always accepted, even if it equals the default; so is every value at the start.
"""

from __future__ import annotations

from collections.abc import Iterator

from dotproxy.config.describe import AT_START, default_as_toml, value_in_words
from dotproxy.config.load import Loaded
from dotproxy.config.model import Config
from dotproxy.config.schema import SETTINGS
from dotproxy.errors import ConfigError
from dotproxy.telemetry.plural import pluralized
from dotproxy.upstream.spec import UpstreamAddress


def without_fallbacks(before: Config, fresh: Loaded) -> Config:
    """
    Return the configuration of ``fresh`` if it may replace ``before``, which is in effect.

    :raises ConfigError: with a line for each guarded setting that would fall back to its default, and for each upstream
        that would be verified less strictly.
    """
    problems = [*_defaults(before, fresh), *_upstreams(before, fresh)]
    if problems:
        raise ConfigError(problems)
    return fresh.config


def _defaults(before: Config, fresh: Loaded) -> Iterator[str]:
    for setting in SETTINGS:
        if not setting.is_guarded or setting.key in AT_START or fresh.sources[setting.key] != "default":
            continue
        # A value that differs from the default was configured; one that equals it would not change.
        old, new = getattr(before, setting.key), getattr(fresh.config, setting.key)
        if old != new:
            yield (
                f"{setting.key}: nothing sets it any more, and it would fall back from"
                f" {value_in_words(setting, old)} to the default, {value_in_words(setting, new)}; if that is meant,"
                f" write {setting.key} = {default_as_toml(setting)}, or restart"
            )


def _upstreams(before: Config, fresh: Loaded) -> Iterator[str]:
    """
    Yield a line for each upstream that would lose its pins or its name, as from a table that is cut off after the
    address.
    """
    source = fresh.sources["upstream"]
    if source == "default":  # _defaults has checked this case
        return
    gone = [old for old in before.upstream if old not in fresh.config.upstream]
    for new in fresh.config.upstream:
        olds = [] if new in before.upstream else [old for old in gone if _hosts(old) & _hosts(new)]
        if not new.pins and (pinned := next((old for old in olds if old.pins), None)):
            yield (
                f"upstream ({source}): {pinned.label} has {pluralized(len(pinned.pins), 'pin')}, and would have none as"
                f" {new}; if that is meant, restart"
            )
        if new.name is None and (named := next((old for old in olds if old.name), None)):
            yield (
                f"upstream ({source}): {named.label} is verified as {named.name}, and would be verified by its address"
                f" as {new}; if that is meant, restart"
            )


def _hosts(upstream: UpstreamAddress) -> set[str]:
    """
    Return the host of an upstream, without the port: a port can be cut off, too.
    """
    return {host for host, _ in upstream.addresses} | ({upstream.host[0]} if upstream.host else set())
