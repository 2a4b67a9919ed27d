"""
Variables that Kubernetes puts into the environment of every container of a namespace, for each Service in it.

Decides which of the variables that begin with ``DOTPROXY_`` were made for a Service whose name begins with
``dotproxy``, from their names and values.  Knows no setting.
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
    Return whether a variable of the environment was made by Kubernetes for a Service.
    """
    if _BY_NAME.fullmatch(variable):
        return True
    return bool(_PORT.fullmatch(variable) and _URL.fullmatch(value))
