#!/opt/landseg/bin/python
"""The `landseg` command of the images; what setuptools would write, without installing."""

import sys

from landseg.cli import main

sys.exit(main())
