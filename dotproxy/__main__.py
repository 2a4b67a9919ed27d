"""
``python -m dotproxy``: the ``dotproxy`` command.
"""

import sys

from dotproxy.cli.main import main

sys.exit(main())
