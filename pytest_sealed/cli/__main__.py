"""`python -m pytest_sealed.cli`."""

from __future__ import annotations

import sys

from pytest_sealed.cli import main

sys.exit(main())
