"""
What a user can set: the schema as data, where values come from, and how they are described.
"""
