"""
DNS as octets: bytes in, bytes or small values out.  Standard library only; no I/O, no clock.
"""
