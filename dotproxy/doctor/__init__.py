"""
Looking at upstreams from outside: ``dotproxy probe`` and ``dotproxy query``.
"""
