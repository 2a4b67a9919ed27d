"""
Shipped fakes: for dotproxy's tests, for its demo, and for the tests of whoever builds on it.

Nothing here is imported by the proxy itself.
"""
