"""What is kept of a study: runs in MLflow, which only this folder knows, and tables for the pages."""

from __future__ import annotations

from search.record.frames import tabulate
from search.record.runs import FrontMember, Record

__all__ = ["FrontMember", "Record", "tabulate"]
