"""
The client side: who an upstream is, and the one way a question can reach it.
"""
