"""`python -m dmpo_ref` is `dmpo`."""

import sys

from dmpo_ref.cli import main

sys.exit(main())
