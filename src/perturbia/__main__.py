"""`python -m perturbia`."""

from __future__ import annotations

from perturbia.cli import main

raise SystemExit(main())
