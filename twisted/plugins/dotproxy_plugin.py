"""
Makes ``twistd dotproxy`` exist.  Imported by every run of twistd, so it imports nothing of dotproxy.
"""

from twisted.application.service import ServiceMaker

dotproxy = ServiceMaker(
    "dotproxy",
    "dotproxy.tap",
    "Forward DNS over verified TLS (DNS over TLS proxy).",
    "dotproxy",
)
