"""
Text forms of the schema and of a configuration.

Decides their layout, which settings need a restart, and how changes of a configuration are described.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

from dotproxy.config.load import Loaded
from dotproxy.config.model import Config
from dotproxy.config.schema import SETTINGS
from dotproxy.config.setting import Setting
from dotproxy.config.units import plain, show_octets, show_seconds


def effective(loaded: Loaded) -> str:
    """
    Return a configuration as TOML, with the source of each value in a comment; ``load_text`` reads it back.
    """
    lines: list[str] = []
    width = max(len(setting.key) for setting in SETTINGS)
    for setting in SETTINGS:
        value = getattr(loaded.config, setting.key)
        source = f"# {loaded.sources[setting.key]}{_with_unit(setting, value)}"
        if value is None:
            lines.append(f"# {setting.key} is not set")
        elif setting.is_list and len(value) > 1:
            lines += [f"{setting.key} = [  {source}", *(f"    {_toml(item)}," for item in value), "]"]
        else:
            shown = "[" + ", ".join(map(_toml, value)) + "]" if setting.is_list else _toml(value)
            lines.append(f"{setting.key:{width}} = {shown}  {source}")
    return "\n".join(lines) + "\n"


_EXAMPLE_HEAD = """\
# dotproxy configuration (TOML).  A file sets at least one thing; what is commented shows the default, "" if there is
# none.
"""


def origin(loaded: Loaded, file: str | None) -> str:
    """
    Return the sources of a configuration as a phrase: the ``file`` that was read, then variables and options.
    """
    given = [source for source in loaded.sources.values() if source not in ("default", file)]
    return ", ".join(dict.fromkeys([*([file] if file else []), *sorted(given)])) or "defaults"


def example_file() -> str:
    """
    Return a configuration file with every setting and its default.  All are commented out except ``upstream``, because
    a file that sets nothing is refused.
    """
    parts = [_EXAMPLE_HEAD]
    for setting in SETTINGS:
        mark = "" if setting.key == "upstream" else "#"
        parts.append(f"# {setting.help}\n{mark}{setting.key} = {default_as_toml(setting)}\n")
    return "\n".join(parts)


def options_table() -> str:
    """
    Return the schema as a Markdown table.
    """
    lines = ["| TOML key | option | environment | default | what it does |", "|---|---|---|---|---|"]
    for setting in SETTINGS:
        short = f"`-{setting.short}`, " if setting.short else ""
        option = f"{short}`--{setting.option} {setting.metavar}`"
        default = "–" if setting.default is None else f"`{default_as_toml(setting)}`"
        if setting.key == "allow_from":
            default = "loopback and private networks"
        lines.append(f"| `{setting.key}` | {option} | `{setting.variable}` | {default} | {setting.help} |")
    return "\n".join(lines) + "\n"


def default_as_toml(setting: Setting) -> str:
    """
    Return a setting's default in TOML syntax; ``""`` if there is none.
    """
    if setting.default is None:
        return '""'
    return "[" + ", ".join(map(_toml, setting.defaults)) + "]" if setting.is_list else _toml(setting.default)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(int(value)) if value == int(value) else repr(value)
    return json.dumps(str(value), ensure_ascii=False)


#: Settings whose change needs a restart.
AT_START = frozenset(
    (
        "listen",
        "listen_tls",
        "proxy_protocol_from",
        "workers",
        "udp_batched",
        "udp_cookies",
        "transparent",
        "cache_size",
        "cache_memory",
        "cache_file",
        "admin_listen",
        "admin_hosts",
        "admin_socket",
        "log_format",
        "user",
    )
)


#: Settings that are valid only together with ``listen_tls``.
_OF_LISTEN_TLS = ("tls_certificate", "tls_key", "tls_client_ca")


def as_started(before: Config, fresh: Config) -> Config:
    """
    Return ``fresh`` as far as a reload can apply it: settings that need a restart have their values from ``before``.
    """
    kept = {key: getattr(before, key) for key in AT_START}
    if bool(before.listen_tls) != bool(fresh.listen_tls):
        kept |= {key: getattr(before, key) for key in _OF_LISTEN_TLS}
    return replace(fresh, **kept)


def describe_changes(before: Config, after: Config) -> list[str]:
    """
    Return a phrase for each difference; settings that need a restart are marked as such.
    """
    changes: list[str] = []
    for setting in SETTINGS:
        old, new = getattr(before, setting.key), getattr(after, setting.key)
        if old == new:
            continue
        if setting.key == "upstream":
            changes += [f"upstream {one.label} is gone" for one in old if one not in new]
            changes += [f"upstream {one.label} is new" for one in new if one not in old]
            if set(old) == set(new):
                changes.append("the upstreams have another order")
        elif setting.key in AT_START:
            changes.append(f"{setting.key} changes with the next start")
        else:
            changes.append(f"{setting.key} is {value_in_words(setting, new)}, was {value_in_words(setting, old)}")
    return changes


def value_in_words(setting: Setting, value: object) -> str:
    """
    Return a value as text for log lines: members of a list separated by spaces, times and sizes with units.
    """
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return _SHOW.get(setting.metavar, (plain, 0))[0](value)
    return "none" if value is None else str(value)


#: By metavar of a setting: how a number is shown, and from which value on ``effective`` adds it with a unit.
_SHOW: dict[str, tuple[Callable[[float], str], int]] = {"SECONDS": (show_seconds, 60), "OCTETS": (show_octets, 1024)}


def _with_unit(setting: Setting, value: object) -> str:
    """
    Return a large time or size in larger units, in parentheses; "" for any other value.
    """
    show, large = _SHOW.get(setting.metavar, (plain, 0))
    if not large or not isinstance(value, int | float) or value < large or show(value) == plain(value):
        return ""
    return f" ({show(value)})"
