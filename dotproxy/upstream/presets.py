"""
Public DNS-over-TLS services by name: the addresses and the name each operator publishes.

A preset is one upstream with several addresses.  Data only.
"""

from __future__ import annotations

#: name → (authentication name, addresses in the order they are dialled)
PRESETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "cloudflare": (
        "cloudflare-dns.com",
        ("1.1.1.1", "2606:4700:4700::1111", "1.0.0.1", "2606:4700:4700::1001"),
    ),
    "cloudflare-security": (
        "security.cloudflare-dns.com",
        ("1.1.1.2", "2606:4700:4700::1112", "1.0.0.2", "2606:4700:4700::1002"),
    ),
    "cloudflare-family": (
        "family.cloudflare-dns.com",
        ("1.1.1.3", "2606:4700:4700::1113", "1.0.0.3", "2606:4700:4700::1003"),
    ),
    "quad9": (
        "dns.quad9.net",
        ("9.9.9.9", "2620:fe::fe", "149.112.112.112", "2620:fe::9"),
    ),
    "quad9-unfiltered": (
        "dns10.quad9.net",
        ("9.9.9.10", "2620:fe::10", "149.112.112.10", "2620:fe::fe:10"),
    ),
    "google": (
        "dns.google",
        ("8.8.8.8", "2001:4860:4860::8888", "8.8.4.4", "2001:4860:4860::8844"),
    ),
    "adguard": (
        "dns.adguard-dns.com",
        ("94.140.14.14", "2a10:50c0::ad1:ff", "94.140.15.15", "2a10:50c0::ad2:ff"),
    ),
    "adguard-unfiltered": (
        "unfiltered.adguard-dns.com",
        ("94.140.14.140", "2a10:50c0::1:ff", "94.140.14.141", "2a10:50c0::2:ff"),
    ),
    "adguard-family": (
        "family.adguard-dns.com",
        ("94.140.14.15", "2a10:50c0::bad1:ff", "94.140.15.16", "2a10:50c0::bad2:ff"),
    ),
    "mullvad": ("dns.mullvad.net", ("194.242.2.2", "2a07:e340::2")),
    "mullvad-adblock": ("adblock.dns.mullvad.net", ("194.242.2.3", "2a07:e340::3")),
    "mullvad-base": ("base.dns.mullvad.net", ("194.242.2.4", "2a07:e340::4")),
    "cleanbrowsing-security": (
        "security-filter-dns.cleanbrowsing.org",
        ("185.228.168.9", "2a0d:2a00:1::2", "185.228.169.9", "2a0d:2a00:2::2"),
    ),
    "dns-sb": ("dot.sb", ("185.222.222.222", "2a09::", "45.11.45.11", "2a11::")),
}
