"""
Settings of the running service: cache file, administration, user and log.

Decides their names, defaults and help texts.  ``schema`` joins them with all other settings.
"""

from __future__ import annotations

from dotproxy.config.choices import LogFormat, LogLevel, QueryLogMode
from dotproxy.config.setting import Setting
from dotproxy.config.system_users import parse_account
from dotproxy.config.values import number, one_of, parse_admin_host, parse_listen, parse_log_level, parse_new_file

OPERATION: tuple[Setting, ...] = (
    Setting(
        "cache_file",
        None,
        parse_new_file,
        "FILE",
        "File for the cache: written periodically and at the stop, read at the start. FILE.key beside it authenticates"
        " it.",
    ),
    Setting(
        "admin_listen",
        None,
        parse_listen,
        "ADDR:PORT",
        "Address of the HTTP listener for /metrics, /healthz, /readyz and /status; none by default.",
    ),
    Setting(
        "admin_hosts",
        (),
        parse_admin_host,
        "NAME",
        "Host names that admin_listen accepts in the HTTP Host header. Always accepted: IP addresses and localhost,"
        " and, unless it listens on loopback, single labels and names below local, internal, home.arpa, test and svc."
        " * accepts any. May be repeated.",
        is_list=True,
    ),
    Setting(
        "admin_socket",
        None,
        parse_new_file,
        "PATH",
        "Unix socket for `dotproxy status`, `cache`, `reload`, `drain` and `log`, accessible to its owner only.",
    ),
    Setting(
        "user",
        None,
        parse_account,
        "USER[:GROUP]",
        "User to run as when started as root, after all sockets are bound; twistd's --uid has precedence. Without it,"
        " dotproxy keeps running as root, without capabilities, and logs a warning.",
    ),
    Setting(
        "query_log",
        QueryLogMode.OFF,
        one_of(*QueryLogMode),
        "HOW",
        "Log a line for each response: off, hashed (names and client addresses hashed with a key that changes at each"
        " start), or clear.",
    ),
    Setting(
        "query_log_sample",
        1.0,
        number(0, 1, ""),
        "SHARE",
        "Fraction of the responses that query_log logs.",
    ),
    Setting(
        "log_format",
        LogFormat.AUTO,
        one_of(*LogFormat),
        "FORM",
        "Format of log lines: text, json, journal (text with priorities), or auto (text on a terminal, journal for"
        " journald, otherwise json). Applies to `dotproxy run`; twistd has --logger.",
    ),
    Setting(
        "log_level",
        LogLevel.INFO,
        parse_log_level,
        "LEVEL",
        "info: a line for each change of state; debug: also a line for each connection.",
    ),
)
