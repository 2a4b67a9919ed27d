"""
A client of the admin socket and the admin address: one request, one JSON object.

Decides how much is read and for how long, and that control characters are escaped: the listener need not be a dotproxy.
What is requested, and how it is shown, is the caller's.
"""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any
from urllib.parse import urlencode

from dotproxy.cli.socket_deadline import deadline
from dotproxy.wire.printable import printable, printable_data, printable_lines

#: Seconds for connecting, and for request and response after that.
TIMEOUT = 10.0

#: Octets of a response at most; the status of a hundred upstreams takes 60,000.
MAX_RESPONSE = 4 << 20

_FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class NotDotproxy(Exception):
    """
    The response is not a dotproxy's; the text says why.
    """


class UnixConnection(http.client.HTTPConnection):
    """
    HTTP over a UNIX socket.
    """

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        """
        Connect.
        """
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def fetch(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    arguments: dict[str, str] | None = None,
    timeout: float = TIMEOUT,
) -> tuple[int, dict[str, Any]]:
    """
    Send a request; return the status code and the JSON object of the response, with control characters escaped.

    :raises OSError: if there is no response in time.
    :raises NotDotproxy: if the response is no HTTP, no JSON object, or too large.
    """
    try:
        connection.connect()
        with deadline(connection.sock, timeout):
            body = urlencode(arguments or {}) if method == "POST" else None
            connection.request(method, path, body, _FORM if body is not None else {})
            response = connection.getresponse()
            octets = response.read(MAX_RESPONSE + 1)
        if len(octets) > MAX_RESPONSE:
            raise NotDotproxy(f"more than {MAX_RESPONSE >> 20} MiB were sent")
        decoded = json.loads(octets)
        answer = printable_data(decoded)
    except (http.client.HTTPException, ValueError, RecursionError) as error:
        reason = printable(str(error))[:100] or type(error).__name__
        raise NotDotproxy(f"the listener is not a dotproxy ({reason})") from None
    finally:
        connection.close()
    if not isinstance(answer, dict):
        raise NotDotproxy("the listener is not a dotproxy (no JSON object)")
    if "error" in answer:  # it has a line for each problem
        answer["error"] = printable_lines(str(decoded["error"]))
    return response.status, answer
