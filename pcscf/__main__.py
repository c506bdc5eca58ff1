"""`python -m pcscf` is the command `pcscf`."""

import sys

from pcscf.cli import main

sys.exit(main())
