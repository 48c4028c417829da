"""Bad input for as long as there is time: ``python -m tests.fuzz --seconds 600``, ``... --guided test_a_bent_profile``.

Without ``--guided`` the laws of this folder are tried at random, some hundred examples at a time. With it one law is
tried on bytes that are chosen by what they reach in our code, with atheris (``pip install atheris``).
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
FILES = sorted(file.stem for file in FOLDER.glob("test_*.py"))


def at_random(seconds: float, only: str, examples: int) -> int:
    """Runs the laws again and again; the exit code of the first run that fails."""
    ends, rounds = time.monotonic() + seconds, 0
    while time.monotonic() < ends:
        command = [sys.executable, "-m", "pytest", str(FOLDER), "-q", "-x", "-p", "no:cacheprovider", "-k", only]
        done = subprocess.run(command, env=os.environ | {"PLEACH_EXAMPLES": str(examples)}, check=False)
        if done.returncode:
            return done.returncode
        rounds += 1
    print(f"{rounds} rounds of {examples} examples per law: nothing found")
    return 0


def guided(law: str, seconds: float) -> None:
    """Runs one law on bytes that reach further and further; ends the process."""
    try:
        atheris: Any = importlib.import_module("atheris")
    except ModuleNotFoundError:
        sys.exit("a guided run needs atheris, but it is not installed: pip install atheris")
    with atheris.instrument_imports(include=["spaces", "objectives", "search"]):
        modules = [importlib.import_module(f"tests.fuzz.{file}") for file in FILES]
    found = [getattr(module, name) for module in modules for name in vars(module) if name.startswith(law)]
    if len(found) != 1:
        sys.exit(f"--guided must name one law, but {law!r} names {len(found)}: see {FOLDER}")
    atheris.Setup([sys.argv[0], f"-max_total_time={seconds:g}", "-max_len=8192"], found[0].hypothesis.fuzz_one_input)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="for how long")
    parser.add_argument("--only", default="read_or or loads or answer or refused or admits", help="as pytest's -k")
    parser.add_argument("--examples", type=int, default=300, help="per law and round")
    parser.add_argument("--guided", metavar="LAW", help="one law, with atheris")
    given = parser.parse_args()
    if given.guided:
        guided(given.guided, given.seconds)
    sys.exit(at_random(given.seconds, given.only, given.examples))


if __name__ == "__main__":
    main()
