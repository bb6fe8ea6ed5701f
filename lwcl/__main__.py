"""`python -m lwcl` and `torchrun -m lwcl`."""

import sys

from lwcl.cli.main import main

sys.exit(main())
