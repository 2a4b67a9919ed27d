"""
Asking the admin socket, or the admin address, of a dotproxy: one request, one JSON object.

Decides how much is read and for how long, and that nothing of it can command a terminal: whoever listens there need not
be a dotproxy.  What is asked and how it is shown is the caller's.
"""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any
from urllib.parse import urlencode

from dotproxy.cli.socket_deadline import deadline
from dotproxy.wire.printable import printable, printable_data, printable_lines

#: How long connecting may take, and the whole conversation after it, in seconds.
TIMEOUT = 10.0

#: More than this is not read; the status of a hundred upstreams takes 60,000 octets.
MAX_RESPONSE = 4 << 20

_FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class NotDotproxy(Exception):
    """
    What answers there is not a dotproxy; the text says why.
    """


class UnixConnection(http.client.HTTPConnection):
    """
    HTTP over a socket of this machine's.
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
    Return the status code, and the JSON object that was answered, with control characters escaped.

    :raises OSError: if nobody answers in time.
    :raises NotDotproxy: if what is answered is no HTTP, no JSON object, or too much.
    """
    try:
        connection.connect()
        with deadline(connection.sock, timeout):
            body = urlencode(arguments or {}) if method == "POST" else None
            connection.request(method, path, body, _FORM if body is not None else {})
            response = connection.getresponse()
            octets = response.read(MAX_RESPONSE + 1)
        if len(octets) > MAX_RESPONSE:
            raise NotDotproxy(f"more than {MAX_RESPONSE >> 20} MiB were answered")
        said = json.loads(octets)
        answer = printable_data(said)
    except (http.client.HTTPException, ValueError, RecursionError) as error:
        reason = printable(str(error))[:100] or type(error).__name__
        raise NotDotproxy(f"what answers there is not a dotproxy ({reason})") from None
    finally:
        connection.close()
    if not isinstance(answer, dict):
        raise NotDotproxy("what answers there is not a dotproxy (no JSON object)")
    if "error" in answer:  # which has a line for each problem
        answer["error"] = printable_lines(str(said["error"]))
    return response.status, answer
