"""
Special-use names (RFC 6761), which are answered locally and not forwarded.

Decides which names those are, and which local answer each gets.  ``wire.local_answers`` writes it.

| name | answer | rule |
|---|---|---|
| localhost | loopback addresses | RFC 6761 §6.3 |
| invalid, test | no such name | RFC 6761 §6.4, §6.2 |
| onion | no such name | RFC 7686 §2 |
| local | no such name | RFC 6762 §22.1 |
| alt | no such name | RFC 9476 §2 |
| home.arpa | no such name, but for the DS of home.arpa itself | RFC 8375 §4 |
| doh_canary | no such name: use-application-dns.net, by which browsers learn to leave DNS to the system | |
| resolver.arpa | no data | RFC 9462 §6.4 |
| private_reverse | no such name, in the zones of private and other local addresses | RFC 6303 §4, RFC 7793 §3 |
| private_tlds | no such name, in the top-level domains that private networks use | RFC 6762 Appendix G |

Of ``private_tlds``, ``internal`` is reserved for private use by ICANN (2024); none of the others is delegated.  A
public upstream that is asked about them learns names of a house or an office, and can only answer NXDOMAIN.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from dotproxy.wire.names import fold, from_text
from dotproxy.wire.rrtypes import DS


class LocalAnswer(Enum):
    """
    The kind of a local answer.
    """

    LOOPBACK = "loopback"
    NO_NAME = "no such name"
    NO_DATA = "no data"


class Verdict(NamedTuple):
    """
    The kind of local answer, and the zone (wire form) it comes from.
    """

    kind: LocalAnswer
    zone: bytes


def _reverse(*addresses: str) -> tuple[str, ...]:
    return tuple(f"{address}.in-addr.arpa" for address in addresses)


def _reverse6(*prefixes: str) -> tuple[str, ...]:
    return tuple(".".join(reversed(prefix)) + ".ip6.arpa" for prefix in prefixes)


#: Not reserved by the IETF, but used in private networks (RFC 6762 Appendix G); each can be switched by itself, too.
PRIVATE_TLDS = ("intranet", "internal", "private", "corp", "home", "lan")

#: By the name a family is switched by: the zones in it.
FAMILIES: dict[str, tuple[str, ...]] = {
    "localhost": ("localhost",),
    "invalid": ("invalid",),
    "test": ("test",),
    "onion": ("onion",),
    "local": ("local",),
    "alt": ("alt",),
    "home.arpa": ("home.arpa",),
    "resolver.arpa": ("resolver.arpa",),
    "doh_canary": ("use-application-dns.net",),
    "private_reverse": (
        *_reverse("10", "168.192", "254.169", "0", "127", "2.0.192", "100.51.198", "113.0.203", "255.255.255.255"),
        *_reverse(*(f"{n}.172" for n in range(16, 32)), *(f"{n}.100" for n in range(64, 128))),
        *_reverse6("0" * 32, "0" * 31 + "1", "fd", "fe8", "fe9", "fea", "feb", "20010db8"),
    ),
    "private_tlds": PRIVATE_TLDS,
}

#: What the setting ``forward_special`` takes: families, and single zones.
SWITCHES = (*FAMILIES, *PRIVATE_TLDS)

#: Families whose apex does not exist either, as they are not delegated.
_NXDOMAIN_AT_APEX = frozenset(("invalid", "test", "onion", "local", "alt", "doh_canary", "private_tlds"))


class SpecialNames:
    """
    The families that are answered locally: all but those ``forwarded``, of ``SWITCHES``.
    """

    def __init__(self, forwarded: Iterable[str] = ()) -> None:
        self._zones: dict[bytes, tuple[str, bytes]] = {}
        asked = frozenset(forwarded)
        for family in FAMILIES.keys() - asked:
            for zone in frozenset(FAMILIES[family]) - asked:
                wire = from_text(zone)
                self._zones[fold(wire)] = (family, wire)
        # A first test by suffix excludes most names; it need not be exact.
        self._ends = tuple({_last_label(zone) for zone in self._zones})

    def match(self, name: bytes, qtype: int) -> Verdict | None:
        """
        Return the local answer for ``name`` (uncompressed wire form, any case), None if it is forwarded.
        """
        folded = name.lower()
        if not folded.endswith(self._ends):
            return None
        offset = 0
        while folded[offset]:
            found = self._zones.get(folded[offset:])
            if found:
                return _verdict(*found, is_top=not offset, qtype=qtype)
            offset += 1 + folded[offset]
        return None


def _verdict(family: str, zone: bytes, *, is_top: bool, qtype: int) -> Verdict | None:
    if family == "localhost":
        return Verdict(LocalAnswer.LOOPBACK, zone)
    if family == "resolver.arpa":
        return Verdict(LocalAnswer.NO_DATA, zone)
    if is_top and family not in _NXDOMAIN_AT_APEX:
        # A validator below us needs the proof that home.arpa is not signed (RFC 8375 §4).
        return None if family == "home.arpa" and qtype == DS else Verdict(LocalAnswer.NO_DATA, zone)
    return Verdict(LocalAnswer.NO_NAME, zone)


def _last_label(zone: bytes) -> bytes:
    offset = 0
    while zone[offset + 1 + zone[offset]]:
        offset += 1 + zone[offset]
    return zone[offset:]
