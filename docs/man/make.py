"""
Write the manual pages, dotproxy(1) and dotproxy.toml(5), from the settings and the commands.

Decides their layout.  The texts of settings and commands come from the schema and the usage text of the command.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from dotproxy import __version__
from dotproxy.cli.main import _USAGE
from dotproxy.config.schema import SETTINGS
from dotproxy.config.setting import Setting

HERE = Path(__file__).parent

#: The date of the text in this file.
DATE = "2026-11-21"

_COMMAND = r"""
.SH NAME
dotproxy \- forward DNS over authenticated TLS
.SH SYNOPSIS
.B dotproxy
.I COMMAND
.RI [ options ]
.br
.B twistd
.RI [ "twistd\(aqs options" ]
.B dotproxy
.RI [ options ]
.SH DESCRIPTION
.B dotproxy
accepts DNS queries over UDP, TCP and TLS and forwards them to upstreams over
authenticated TLS (RFC 7858, strict profile of RFC 8310).
There is no opportunistic mode and no fallback to plain DNS.
By default it listens on 127.0.0.1:5300 and forwards to Cloudflare and Quad9.
.SH COMMANDS
@COMMANDS@.PP
The next section lists the options of
.B run
and
.BR check .
.B dotproxy
.I COMMAND
.B \-\-help
lists the options of the other commands.
.SH OPTIONS
Each option is also a key of the configuration file and an environment variable,
see
.BR dotproxy.toml (5).
Options override environment variables, which override the file.
.TP
.BI \-\-config " FILE"
A TOML file with any of these settings.
@OPTIONS@.SH ENVIRONMENT
.TP
.B DOTPROXY_CONFIG
Path of the configuration file, unless
.B \-\-config
is given.
.TP
.BI DOTPROXY_ SETTING
The setting with this key, in upper case.
.SH SIGNALS
SIGHUP reloads the configuration.
SIGTERM and SIGINT stop dotproxy after the queries in flight have responses; a
second one stops it at once.
.SH EXIT STATUS
0 on success, otherwise another number; 78 if
.B run
cannot use the configuration.
.SH EXAMPLES
.EX
dotproxy run \-\-upstream quad9 \-\-upstream tls://1.1.1.1#cloudflare\-dns.com
dotproxy check \-\-config /etc/dotproxy/dotproxy.toml
dotproxy probe tls://9.9.9.9#dns.quad9.net
.EE
.SH SEE ALSO
.BR dotproxy.toml (5),
.BR twistd (1)
"""

_FILE = r"""
.SH NAME
dotproxy.toml \- configuration file of dotproxy
.SH DESCRIPTION
A TOML file, given by
.B \-\-config
or
.BR DOTPROXY_CONFIG ;
the systemd unit reads
.IR /etc/dotproxy/dotproxy.toml .
Every key is optional.
Each is also an option of
.BR dotproxy (1)
and an environment variable; options override environment variables, which
override the file.
Lists are TOML arrays, or strings separated by commas or spaces.
Times are in seconds, sizes in octets; both may be strings with units, such as
"500ms" or "128MiB".
.B dotproxy example
prints a file with every key and its default,
.B dotproxy check
prints the configuration in effect and the source of each value.
.SH SETTINGS
@SETTINGS@.SH EXAMPLES
.EX
listen = ["127.0.0.1:53", "[::1]:53"]
upstream = ["quad9", "tls://1.1.1.1#cloudflare\-dns.com"]
policy = "failover"
.EE
.SH SEE ALSO
.BR dotproxy (1)
"""


def pages() -> dict[str, str]:
    """
    Return the text of each page, by file name.
    """
    command = _COMMAND.replace("@COMMANDS@", _commands()).replace("@OPTIONS@", "".join(map(_option, SETTINGS)))
    file = _FILE.replace("@SETTINGS@", "".join(map(_setting, SETTINGS)))
    return {
        "dotproxy.1": _page("DOTPROXY", 1, command),
        "dotproxy.toml.5": _page("DOTPROXY.TOML", 5, file),
    }


def _page(title: str, section: int, text: str) -> str:
    return f'.\\" Made by docs/man/make.py.\n.TH {title} {section} {DATE} "dotproxy {__version__}"\n.nh\n.ad l{text}'


def _commands() -> str:
    listed = re.findall(r"^  ([a-z]+)  +(.+)$", _USAGE, re.MULTILINE)
    return "".join(f".TP\n.B dotproxy {name}\n{_text(text)}\n" for name, text in listed)


def _option(setting: Setting) -> str:
    short = f"\\-{setting.short}, " if setting.short else ""
    option = f"{short}\\-\\-{_text(setting.option)}"
    return f".TP\n\\fB{option}\\fR \\fI{_text(setting.metavar)}\\fR\n{_text(setting.help)}\n{_default(setting)}"


def _setting(setting: Setting) -> str:
    return f".TP\n.B {setting.key}\n{_text(setting.help)}\n{_default(setting)}Environment: {setting.variable}.\n"


def _default(setting: Setting) -> str:
    if setting.default in (None, ()) or setting.key == "allow_from":
        return ""
    shown = " ".join(map(str, setting.default)) if setting.is_list else setting.default
    if isinstance(shown, bool):
        shown = "yes" if shown else "no"
    return f"Default: {_text(f'{shown:g}' if isinstance(shown, float) else str(shown))}.\n"


def _text(text: str) -> str:
    r"""
    Return a text for groff and mandoc: short lines of ASCII, hyphens that can be copied, no line that begins like a
    request.
    """
    lines = textwrap.wrap(text.replace("…", "..."), 72, break_long_words=False, break_on_hyphens=False)
    escaped = [line.replace("\\", "\\e").replace("-", "\\-") for line in lines]
    return "\n".join(f"\\&{line}" if line[0] in ".'" else line for line in escaped)


if __name__ == "__main__":
    for name, page in pages().items():
        (HERE / name).write_text(page, "utf-8")
