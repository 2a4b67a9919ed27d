"""
A DNS-over-TLS server that does everything wrong that servers do, and what a forwarder makes of it.
"""
