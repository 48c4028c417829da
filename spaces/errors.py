"""Every error a user can cause. The command line prints the message as one line and exits with 2.

    PleachError
    ├── ProfileError      a policy, a profile or a search space breaks a rule       (ValueError)
    ├── StudyFileError    the study file breaks a rule                              (ValueError)
    ├── CriterionError    a constraint, stop criterion or `--where` does not parse  (ValueError)
    ├── TaskError         the task cannot be loaded or breaks its interface         (ValueError)
    ├── NetworkError      the network cannot be operated on                         (ValueError)
    │   └── TraceError    torch.fx cannot trace the network                         (ValueError)
    ├── StorageError      a folder, file or database cannot be read or written      (OSError)
    │   └── UnreachableError  a server does not answer now, and may later           (OSError)
    ├── StudyError        the study is not in a state that allows this              (RuntimeError)
    ├── RequestError      a request to a service does not fit what it serves        (ValueError)
    ├── ExportError       an exported folder cannot be written or must not be read  (ValueError)
    └── InstallationError the installation is not what the code was built for       (ImportError)

A message states the rule, the value and the remedy, in this order, on one line.
"""

from __future__ import annotations

import reprlib

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


def shown(value: object) -> str:
    """A value as a message quotes it: one line, short, whatever it is."""
    try:
        text = " ".join(_SHORT.repr(value).split())
    except ValueError:  # Python refuses to print whole numbers of thousands of digits
        text = f"<{type(value).__name__} too long to print>"
    return text if len(text) <= 80 else f"{text[:77]}..."


class PleachError(Exception):
    """Root of the tree: catch it to catch everything that a user can mend."""


class ProfileError(PleachError, ValueError):
    """A policy, a profile or a search space breaks a rule."""


class StudyFileError(PleachError, ValueError):
    """The study file breaks a rule."""


class CriterionError(PleachError, ValueError):
    """A constraint, a stop criterion or a `--where` clause does not parse."""


class TaskError(PleachError, ValueError):
    """The task cannot be loaded, or what it returns breaks the interface."""


class NetworkError(PleachError, ValueError):
    """The network cannot be operated on as asked."""


class TraceError(NetworkError):
    """torch.fx cannot trace the network; the message names the place."""


class StorageError(PleachError, OSError):
    """A folder, a file or a database cannot be read or written."""


class UnreachableError(StorageError):
    """A server does not answer now, and may later: waiting can help."""


class StudyError(PleachError, RuntimeError):
    """The study is not in a state that allows what was asked."""


class ExportError(PleachError, ValueError):
    """An exported folder cannot be written, or is not safe to read."""


class RequestError(PleachError, ValueError):
    """A request to a service does not fit what it serves."""


class InstallationError(PleachError, ImportError):
    """What is installed is not what the code was built for."""
