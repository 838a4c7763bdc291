"""`python -m landseg`."""

import sys

from landseg.cli.main import main

sys.exit(main())
