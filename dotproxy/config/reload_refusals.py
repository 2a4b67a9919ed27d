"""
What a reload may not take back: values about who is asked, believed and served.

Decides when a value that was given would be replaced by a default because nothing sets it any more, most likely since
the file was read half-written or its writer had no room.  A value that is written out always counts, also one that
equals the default, and a start takes whatever it is given.
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
        # What differs from the default was given; what equals it changes nothing.
        old, new = getattr(before, setting.key), getattr(fresh.config, setting.key)
        if old != new:
            yield (
                f"{setting.key}: nothing sets it any more, and it would fall back from"
                f" {value_in_words(setting, old)} to the default, {value_in_words(setting, new)}; if that is meant,"
                f" write {setting.key} = {default_as_toml(setting)}, or restart"
            )


def _upstreams(before: Config, fresh: Loaded) -> Iterator[str]:
    """
    A table cut off after its address has no pins, and no name to verify.
    """
    source = fresh.sources["upstream"]
    if source == "default":  # all of them are new, and that was judged
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
    Where an upstream is, whatever its port: a number can be cut off, too.
    """
    return {host for host, _ in upstream.addresses} | ({upstream.host[0]} if upstream.host else set())
