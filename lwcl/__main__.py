"""`python -m lwcl` and `torchrun -m lwcl`."""

import sys

from lwcl.cli import main

sys.exit(main())
