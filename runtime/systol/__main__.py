"""`python -m systol`."""

import sys

from systol.cli import main

sys.exit(main())
