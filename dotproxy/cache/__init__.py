"""
What is kept of responses: the cache, the packet cache and the failure cache; pure, without clock and I/O.
"""
