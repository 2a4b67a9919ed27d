"""
Environment variables that Kubernetes sets in every container of a namespace, for each Service of the namespace.

Decides by name and value which variables that begin with ``DOTPROXY_`` were set for a Service whose name begins with
``dotproxy``.  Refuses to know any setting.
"""

from __future__ import annotations

import re

#: ``DOTPROXY`` is the Service named dotproxy, ``DOTPROXY_METRICS`` the one named dotproxy-metrics.
_SERVICE = "DOTPROXY(?:_[A-Z0-9_]+)?"

#: No setting has a name of one of these shapes.
_BY_NAME = re.compile(f"{_SERVICE}_(?:SERVICE_HOST|SERVICE_PORT(?:_.+)?|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_.+)?)")

#: DOTPROXY_UPSTREAM_PORT and DOTPROXY_LISTEN_PORT are settings if they hold a number; Kubernetes writes a URL.
_PORT = re.compile(f"{_SERVICE}_PORT")
_URL = re.compile(r"(?:tcp|udp|sctp)://(?:[0-9.]+|\[[0-9A-Fa-f:.]+\]):[0-9]+")


def is_service_link(variable: str, value: str) -> bool:
    """
    Return whether Kubernetes set this environment variable for a Service.
    """
    if _BY_NAME.fullmatch(variable):
        return True
    return bool(_PORT.fullmatch(variable) and _URL.fullmatch(value))
