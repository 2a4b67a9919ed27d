"""
SPKI pins (RFC 7858 §4.2): SHA-256 hashes of public keys.

Decides whether a certificate chain has a pinned key.  Knows no certificate.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Collection, Iterable
from hashlib import sha256


def pin_of(spki: bytes) -> bytes:
    """
    Return the pin (32 octets) of a DER SubjectPublicKeyInfo.
    """
    return sha256(spki).digest()


def parse_pin(text: str) -> bytes:
    """
    Return the pin written as base64, as ``openssl dgst -sha256 -binary | base64`` prints it.

    :raises ValueError: if it is not the base64 of 32 octets.
    """
    try:
        pin = b64decode(text.strip().encode(), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ValueError(f"pin {text!r} is not base64") from None
    if len(pin) != 32:
        raise ValueError(f"pin {text!r} is {len(pin)} octets, a SHA-256 pin is 32 (44 characters of base64)")
    return pin


def show_pin(pin: bytes) -> str:
    """
    Return a pin as base64, the way it is configured.
    """
    return b64encode(pin).decode("ascii")


def matches_pins(pins: Collection[bytes], chain_pins: Iterable[bytes]) -> bool:
    """
    Return whether one of a chain's pins is among ``pins``; always if there are no ``pins``.
    """
    return not pins or any(pin in pins for pin in chain_pins)
