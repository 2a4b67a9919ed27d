"""
The running service: what it is built from, how it starts, reloads and stops.
"""
