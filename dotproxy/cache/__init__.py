"""
The cache, the packet cache and the failure cache: pure, without a clock and I/O.
"""
