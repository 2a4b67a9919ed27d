"""
The admin address and socket: metrics, health, status, commands.
"""
