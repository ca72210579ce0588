"""What this host lets this account do, found by doing it: `sealed doctor`, and the short form in pytest's reports.

A module per family of checks. Each makes findings: ok, degraded or missing, what that means for the user, and the
exact remedy on this distribution. Whatever could leave something behind is done by a child or a worker, through
the code that the runtime itself uses.
"""

from __future__ import annotations

from pytest_sealed.doctor.examination import Examination, examine
from pytest_sealed.doctor.finding import Finding, Remedy

__all__ = ["Examination", "Finding", "Remedy", "examine"]
