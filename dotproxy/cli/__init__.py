"""
The dotproxy command and its subcommands.
"""
