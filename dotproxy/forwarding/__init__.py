"""
The life of a query: from a listener's batch to the response, by way of caches and upstreams.
"""
