"""
``python -m dotproxy``: the ``dotproxy`` command.
"""

import sys

from dotproxy.cli import main

sys.exit(main())
