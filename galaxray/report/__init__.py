"""The report of a run: one HTML file with pictures, distributions, failures and timing."""

from __future__ import annotations

from galaxray.report.report import write_report

__all__ = ["write_report"]
