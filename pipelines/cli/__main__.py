"""`python -m pipelines.cli` does what `workbench` does."""

import sys

from pipelines.cli.entry import main

sys.exit(main())
