"""
One proxy in several processes: a supervisor and its workers.
"""
