"""
Settings of the running service: its files, its user, what its operator sees, and its log.

Decides their names, defaults and help texts; ``schema`` has the other settings, and all of them in one tuple.
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
        "Where what is kept is written when dotproxy stops, and now and then before, and read from when it starts."
        " FILE.key beside it authenticates it.",
    ),
    Setting(
        "admin_listen",
        None,
        parse_listen,
        "ADDR:PORT",
        "Where to serve /metrics, /healthz, /readyz and /status over HTTP; nowhere by default.",
    ),
    Setting(
        "admin_hosts",
        (),
        parse_admin_host,
        "NAME",
        "Names by which admin_listen may be asked (HTTP Host), beside addresses and names that no stranger can own:"
        " localhost and, unless it listens on loopback, single labels and names below local, internal, home.arpa, test"
        " and svc; * for any. May be repeated.",
        is_list=True,
    ),
    Setting(
        "admin_socket",
        None,
        parse_new_file,
        "PATH",
        "A socket for `dotproxy status`, `cache`, `reload`, `drain` and `log`, for its owner alone.",
    ),
    Setting(
        "user",
        None,
        parse_account,
        "USER[:GROUP]",
        "Which user to serve as when started as root, once everything is bound; twistd's --uid wins. Without it root"
        " stays, with no capability, and a warning.",
    ),
    Setting(
        "query_log",
        QueryLogMode.OFF,
        one_of(*QueryLogMode),
        "HOW",
        "Log a line for each answer: off, hashed (names and clients under a key of this run), or clear.",
    ),
    Setting(
        "query_log_sample",
        1.0,
        number(0, 1, ""),
        "SHARE",
        "Of all answers, which share is logged, if any.",
    ),
    Setting(
        "log_format",
        LogFormat.AUTO,
        one_of(*LogFormat),
        "FORM",
        "Lines as text, json, or journal (text with priorities); auto: text on a terminal, journal for journald, else"
        " json. For `dotproxy run`; twistd has --logger.",
    ),
    Setting(
        "log_level",
        LogLevel.INFO,
        parse_log_level,
        "LEVEL",
        "info: a line for each change of state; debug: one for each connection, too.",
    ),
)
