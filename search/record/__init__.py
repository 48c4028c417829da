"""What is kept of a study: runs in MLflow, which only this folder knows, and tables and files for those who look."""

from __future__ import annotations

from search.record.frames import tabulate
from search.record.front import FrontMember
from search.record.report import member_files, study_files
from search.record.runs import Record

__all__ = ["FrontMember", "Record", "member_files", "study_files", "tabulate"]
