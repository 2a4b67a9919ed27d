"""
What dotproxy says about itself.
"""
