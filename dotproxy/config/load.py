"""
Load a configuration: defaults < TOML file < environment < command line.

Decides precedence, and reports all problems at once.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dotproxy.config.cross_checks import disagreements
from dotproxy.config.exposure_warnings import exposures
from dotproxy.config.kubernetes_variables import is_service_link
from dotproxy.config.listener_certificate import warnings_of_tls
from dotproxy.config.model import Config
from dotproxy.config.schema import BY_KEY, SETTINGS
from dotproxy.config.setting import Setting
from dotproxy.config.values import parse_listen
from dotproxy.errors import ConfigError
from dotproxy.upstream.spec import endpoint_text

CONFIG_VARIABLE = "DOTPROXY_CONFIG"

#: Variables known from other containers with a DNS-over-TLS forwarder.  Each sets part of a setting; the setting's own
#: variable has precedence.
_ALIASES = ("DOTPROXY_UPSTREAM_HOST", "DOTPROXY_UPSTREAM_PORT", "DOTPROXY_LISTEN_PORT")

_SEPARATORS = re.compile(r"[,\s]+")


@dataclass(frozen=True, slots=True)
class Loaded:
    """
    A configuration, and the source of each value by key.

    ``warnings``: a line for each ignored variable and each exposure.  ``notes``: a line for each important setting that
    has its default.
    """

    config: Config
    sources: Mapping[str, str]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Given:
    """
    Unparsed values of one setting; ``source`` names their origin in messages.
    """

    values: Sequence[object]
    source: str


def load(
    options: Mapping[str, Sequence[str]],
    environ: Mapping[str, str],
    config_file: str | None = None,
    *,
    needed: Collection[str] = (),
) -> Loaded:
    """
    Return the configuration.

    ``options``: the values from the command line by key, in order.  ``config_file``: the TOML file from the command
    line; without it, ``DOTPROXY_CONFIG`` may name one.

    ``needed``: if not empty, only these keys are loaded; all others have their defaults, and their problems are
    ignored.  So a command needs no access to files that only the running proxy uses.

    :raises ConfigError: with all problems.
    """
    problems: list[str] = []
    warnings: list[str] = []
    given: dict[str, _Given] = {}
    path, path_source = config_file, "--config"
    if path is None and environ.get(CONFIG_VARIABLE):
        path, path_source = environ[CONFIG_VARIABLE], CONFIG_VARIABLE
    if path is not None:
        given |= _from_toml(path, path_source, problems)
    given |= _from_environment(environ, given, problems, warnings)
    given |= _from_options(options)
    if needed:
        given = {key: given[key] for key in needed if key in given}
        problems = [problem for problem in problems if problem.partition(" (")[0] in {*needed, "config"}]
    loaded = _checked(given, problems, warnings)
    return replace(loaded, notes=_notes(loaded, path), warnings=(*loaded.warnings, *_exposed(loaded, path)))


def _notes(loaded: Loaded, path: str | None) -> tuple[str, ...]:
    """
    Return a note if the file sets no upstream: it may be the rest of a damaged file that set one.
    """
    if path is None or loaded.sources["upstream"] != "default":
        return ()
    asked = " and ".join(upstream.label for upstream in loaded.config.upstream)
    return (f"no upstream in {path}: asking {asked}, over TLS",)


def _exposed(loaded: Loaded, path: str | None) -> list[str]:
    file = None if path is None else Path(path).expanduser()
    return exposures(loaded.config, {**loaded.sources, "config": str(path)}, file)


def load_text(text: str) -> Loaded:
    """
    Return the configuration from the text of ``describe.effective``.

    :raises ConfigError: with all problems.
    """
    problems: list[str] = []
    return _checked(_from_table(tomllib.loads(text), "text", problems), problems)


def _checked(given: Mapping[str, _Given], problems: list[str], warnings: Sequence[str] = ()) -> Loaded:
    # Any: each value has the type that its setting's ``parse`` returns, and a test compares settings and fields.
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    unusable: set[str] = set()
    for setting in SETTINGS:
        default = _Given(setting.defaults, "default")
        raw = given.get(setting.key, default)
        sources[setting.key] = raw.source
        before = len(problems)
        values[setting.key] = _parse(setting, raw, problems)
        if len(problems) > before:
            unusable.add(setting.key)
            values[setting.key] = _parse(setting, default, [])
    config = Config(**values)
    problems += disagreements(config, sources, unusable)
    if problems:
        raise ConfigError([*problems, *warnings])
    return Loaded(config, sources, (*warnings, *warnings_of_tls(config, sources)))


def _parse(setting: Setting, raw: _Given, problems: list[str]) -> object:
    parsed: list[object] = []
    for value in raw.values:
        if value is None:
            parsed.append(None)
            continue
        try:
            parsed.append(setting.parse(value))
        except ValueError as error:
            problems.append(f"{setting.key} ({raw.source}): {error}")
    if setting.is_list:
        if not raw.values and setting.default:
            problems.append(f"{setting.key} ({raw.source}): needs at least one value")
        repeated = {str(value) for value in parsed if parsed.count(value) > 1}
        problems += [f"{setting.key} ({raw.source}): {value} is given twice" for value in sorted(repeated)]
        return tuple(parsed)
    return parsed[-1] if parsed else None


def _from_options(options: Mapping[str, Sequence[str]]) -> dict[str, _Given]:
    given: dict[str, _Given] = {}
    for key, texts in options.items():
        setting = BY_KEY[key]
        values: list[object] = [value for text in texts for value in split(text)] if setting.is_list else list(texts)
        if setting.default is None:
            values = [value or None for value in values]  # explicitly none
        given[key] = _Given(values, f"--{setting.option}")
    return given


def _from_environment(
    environ: Mapping[str, str], below: Mapping[str, _Given], problems: list[str], warnings: list[str]
) -> dict[str, _Given]:
    ours = {
        variable: text.strip()
        for variable, text in environ.items()
        if variable.startswith("DOTPROXY_") and not is_service_link(variable, text.strip())
    }
    given = _from_aliases(ours, below, problems)
    known = {setting.variable: setting for setting in SETTINGS}
    others = (*_ALIASES, CONFIG_VARIABLE)
    for variable, text in sorted(ours.items()):
        if variable in others:
            continue
        if variable not in known:
            # Not an error: the environment may be set by another party than the operator.
            meant = _did_you_mean(variable, (*known, *others), "DOTPROXY_")
            warnings.append(f"{variable} (environment): no such setting, ignored; {meant}")
        elif text:  # container templates set variables without a value to ""
            setting = known[variable]
            given[setting.key] = _Given(split(text) if setting.is_list else [text], variable)
    return given


def _from_aliases(environ: Mapping[str, str], below: Mapping[str, _Given], problems: list[str]) -> dict[str, _Given]:
    host, port, listen_port = (environ.get(alias, "") for alias in _ALIASES)
    given: dict[str, _Given] = {}
    if port and not host:
        problems.append(f"upstream ({_ALIASES[1]}): is of no use without {_ALIASES[0]}")
    if host and port:
        where, mark, rest = re.split(r"([#?].*|$)", re.sub("^tls://", "", host, flags=re.IGNORECASE), maxsplit=1)
        source = f"{_ALIASES[0]} and {_ALIASES[1]}"
        if (re.search(r"[:@][0-9]+$", where) and where.count(":") < 2) or re.search(r"\][:@]", where):
            problems.append(f"upstream ({source}): {host!r} has a port already")
        else:
            where = f"[{where}]" if where.count(":") > 1 and not where.startswith("[") else where
            given["upstream"] = _Given([f"{where}:{port}{mark}{rest}"], source)
    elif host:
        given["upstream"] = _Given([host], _ALIASES[0])
    if listen_port:
        given["listen"] = _listen_on(listen_port, below.get("listen"))
    return given


def _listen_on(port: str, below: _Given | None) -> _Given:
    """
    Return the listen addresses of the source with the next lower precedence, with this port.
    """
    addresses: list[object] = []
    for value in below.values if below else BY_KEY["listen"].defaults:
        try:
            addresses.append(endpoint_text(parse_listen(value).host, 0).removesuffix("0") + port)
        except ValueError:
            addresses.append(value)  # reported as invalid later
    return _Given(addresses, _ALIASES[2])


def _from_toml(path: str, path_source: str, problems: list[str]) -> dict[str, _Given]:
    try:
        table = tomllib.loads(Path(path).expanduser().read_text("utf-8"))
    except (OSError, RuntimeError) as error:  # RuntimeError: no home directory
        reason = getattr(error, "strerror", None) or str(error)
        problems.append(f"config ({path_source}): {path!r} cannot be read: {reason.lower()}")
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"config ({path_source}): {path!r} is not TOML: {error}")
        return {}
    if not table:  # cut off before the first setting, or emptied by an editor or a template
        problems.append(
            f"config ({path_source}): {path!r} sets nothing; write at least upstream = {_default_upstreams()},"
            " or start without a file"
        )
    return _from_table(table, path, problems)


def _from_table(table: Mapping[str, object], path: str, problems: list[str]) -> dict[str, _Given]:
    given: dict[str, _Given] = {}
    for key, value in table.items():
        if key not in BY_KEY:
            problems.append(f"{key} ({path}): no such setting; {_did_you_mean(key, BY_KEY)}")
        elif value == "" and BY_KEY[key].default is None:
            given[key] = _Given([None], path)  # explicitly none, as in the example file
        elif not BY_KEY[key].is_list:
            given[key] = _Given([value], path)
        elif isinstance(value, str):
            given[key] = _Given(split(value), path)
        else:
            given[key] = _Given(value if isinstance(value, list) else [value], path)
    return given


def _default_upstreams() -> str:
    return "[" + ", ".join(f'"{name}"' for name in BY_KEY["upstream"].defaults) + "]"


def split(text: str) -> list[str]:
    """
    Return the values of a list written as one string, at commas and spaces.
    """
    return [value for value in _SEPARATORS.split(text) if value]


def _did_you_mean(key: str, known: Iterable[str], prefix: str = "") -> str:
    close = get_close_matches(key.removeprefix(prefix), [name.removeprefix(prefix) for name in known], 1)
    return f"did you mean {prefix}{close[0]}?" if close else "`dotproxy example` lists them all"
