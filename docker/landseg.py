#!/opt/landseg/bin/python
"""The `landseg` command of the images; what setuptools would write, without installing."""

import sys

from landseg.cli.main import main

if __name__ == "__main__":  # worker processes import this file
    sys.exit(main())
