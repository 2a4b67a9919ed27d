"""
Coverage-guided fuzzing of what strangers send: see README.md.
"""
