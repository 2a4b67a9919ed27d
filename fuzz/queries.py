"""
What clients send: python -m fuzz.queries [libFuzzer's options] [corpus]
"""

import sys

import atheris

with atheris.instrument_imports(include=["dotproxy"]):
    from fuzz.path import fuzz_query

atheris.Setup(sys.argv, fuzz_query)
atheris.Fuzz()
