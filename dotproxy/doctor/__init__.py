"""
Looking from outside, at upstreams and at this machine: ``dotproxy probe``, ``query`` and ``doctor``.
"""
