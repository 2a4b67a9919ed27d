"""
Decisions: no Twisted, no clock (time is an argument), no randomness of its own, no logging.
"""
