"""
Whether dotproxy answers: exits 0 if it does, whatever the answer.

Asks what dotproxy answers by itself, so that an upstream's trouble does not restart the container.
"""

import os
import socket
import sys

# A header with opcode STATUS, which is answered with NOTIMP on the spot.
QUESTION = b"\x64\x70\x10\x00" + b"\x00" * 8


def main() -> int:
    """
    Ask once; return the exit code.
    """
    port = int(os.environ.get("DOTPROXY_LISTEN_PORT") or 5300)
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        client.connect(("127.0.0.1", port))
        try:
            client.send(QUESTION)
            answer = client.recv(512)
        except OSError as error:
            print(f"no answer from port {port}: {error}")
            return 1
    return 0 if answer[:2] == QUESTION[:2] else 1


if __name__ == "__main__":
    sys.exit(main())
