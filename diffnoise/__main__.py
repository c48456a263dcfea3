"""`python -m diffnoise` is the command `diffnoise`."""

import sys

from .cli import main

sys.exit(main())
