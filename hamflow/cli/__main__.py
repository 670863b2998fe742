"""`python -m hamflow.cli`, which is `hamflow`."""

import sys

from .command import main

sys.exit(main())
