"""
Resource record types: their numbers, names and groups (RFC 6895 §3.1, the IANA registry "Resource Record (RR) TYPEs").

Decides what a type is called and which group it belongs to.  Refuses to know what a record of a type holds.
"""

from __future__ import annotations

from typing import Final

A: Final = 1
NS: Final = 2
CNAME: Final = 5
SOA: Final = 6
PTR: Final = 12
HINFO: Final = 13
MX: Final = 15
TXT: Final = 16
SIG: Final = 24
AAAA: Final = 28
SRV: Final = 33
OPT: Final = 41
DS: Final = 43
RRSIG: Final = 46
NSEC: Final = 47
DNSKEY: Final = 48
NSEC3: Final = 50
NSEC3PARAM: Final = 51
TLSA: Final = 52
HTTPS: Final = 65
TSIG: Final = 250
IXFR: Final = 251
AXFR: Final = 252
ANY: Final = 255

#: Types that are not of data (RFC 6895 §3.1), but for ANY, which is answered from data.
META_TYPES: Final = range(128, ANY)

#: Types that sign the message that they end: SIG(0) (RFC 2931) and TSIG (RFC 8945).
SIGNATURE_TYPES: Final = frozenset((SIG, TSIG))

#: In the registry's order, from the number in front on.
_NAMES = (
    (1, "A NS MD MF CNAME SOA MB MG MR NULL WKS PTR HINFO MINFO MX TXT RP AFSDB X25 ISDN RT NSAP NSAP-PTR SIG KEY PX"),
    (27, "GPOS AAAA LOC NXT EID NIMLOC SRV ATMA NAPTR KX CERT A6 DNAME SINK OPT APL DS SSHFP IPSECKEY RRSIG NSEC"),
    (48, "DNSKEY DHCID NSEC3 NSEC3PARAM TLSA SMIMEA"),
    (55, "HIP NINFO RKEY TALINK CDS CDNSKEY OPENPGPKEY CSYNC ZONEMD SVCB HTTPS DSYNC HHIT BRID"),
    (99, "SPF UINFO UID GID UNSPEC NID L32 L64 LP EUI48 EUI64"),
    (128, "NXNAME"),
    (249, "TKEY TSIG IXFR AXFR MAILB MAILA ANY URI CAA AVC DOA AMTRELAY RESINFO WALLET CLA IPN"),
    (32768, "TA DLV"),
)

#: By number.
NAMES: Final[dict[int, str]] = {
    first + place: name for first, names in _NAMES for place, name in enumerate(names.split())
}


def name_of(rtype: int) -> str:
    """
    Return the name of a type, TYPE and its number for one that has none (RFC 3597 §5).
    """
    return NAMES.get(rtype) or f"TYPE{rtype}"
