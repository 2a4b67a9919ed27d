"""
Shipped fakes: for the tests of dotproxy and of applications that use it, and for the demo.

Nothing here is imported by the proxy itself.
"""
