"""`python -m landseg`."""

import sys

from landseg.cli import main

sys.exit(main())
