"""
The messages that fuzzing begins with: python -m fuzz.corpora FOLDER writes them there, one in a file, for atheris.

Decides where they are and how they are stored.  ``corpus/queries`` and ``corpus/replies`` hold one message in a file,
the replies without their IDs; ``corpus/captured`` holds what ``fuzz.capture`` recorded, one file a source, in which a
query and its response, each after its length in two octets, alternate.
"""

from __future__ import annotations

import sys
from hashlib import sha256
from pathlib import Path

from dotproxy.wire.framing import Deframer, frame

CORPUS = Path(__file__).parent / "corpus"
CAPTURED = CORPUS / "captured"

#: A query and the response to it.
Exchange = tuple[bytes, bytes]


def singles() -> list[bytes]:
    """
    Return the contents of the files that hold one message each.
    """
    return [path.read_bytes() for kind in ("queries", "replies") for path in sorted((CORPUS / kind).iterdir())]


def exchanges(source: str = "*") -> list[Exchange]:
    """
    Return what was captured, of one source or of all.
    """
    found: list[Exchange] = []
    for path in sorted(CAPTURED.glob(source)):
        messages = Deframer().feed(path.read_bytes())
        found += zip(messages[::2], messages[1::2], strict=True)
    return found


def write(source: str, captured: list[Exchange]) -> None:
    """
    Store what was captured of a source.
    """
    CAPTURED.mkdir(parents=True, exist_ok=True)
    (CAPTURED / source).write_bytes(b"".join(frame(message) for exchange in captured for message in exchange))


def main(folder: Path) -> None:
    """
    Write what was captured as the fuzz targets take it: queries whole, responses without their IDs.
    """
    captured = exchanges()
    for name, messages in (("queries", [one[0] for one in captured]), ("replies", [one[1][2:] for one in captured])):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for message in messages:
            (folder / name / sha256(message).hexdigest()[:16]).write_bytes(message)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
