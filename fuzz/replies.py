"""
What upstreams send: python -m fuzz.replies [libFuzzer's options] [corpus]
"""

import sys

import atheris

with atheris.instrument_imports(include=["dotproxy"]):
    from fuzz.path import fuzz_reply

atheris.Setup(sys.argv, fuzz_reply)
atheris.Fuzz()
