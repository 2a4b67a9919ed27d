"""
The path of a query: from a listener's batch through caches and upstreams to the response.
"""
