"""
dotproxy doctor: what this machine's resolver is, and what leaves it in the clear.
"""
