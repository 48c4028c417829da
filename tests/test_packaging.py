"""What is shipped is what the code was built for: names, files, pins, and a guard where Python finds a stranger."""

from __future__ import annotations

import ast
import email
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from search.installation import PACKAGES, ROOT, check_installation

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: What PyTorch from a public index brings along on a machine that may have a GPU; it pins these itself.
ACCELERATED = re.compile("nvidia-|cuda-|triton$")


def python(*args: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A fresh Python in a folder where nothing of ours lies, with `path` before everything else on its import path."""
    environment = {"PYTHONPATH": str(path)} if path else {}
    command = [sys.executable, *args]
    return subprocess.run(
        command, cwd=sys.prefix, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def modules(package: str) -> set[str]:
    """The files of a package that a wheel must hold."""
    files = [*(ROOT / package).rglob("*.py"), ROOT / package / "py.typed"]
    return {file.relative_to(ROOT).as_posix() for file in files}


def imported(package: str) -> set[str]:
    """The top-level names of other projects that a package imports."""
    names: set[str] = set()
    for file in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add((node.module or "").partition(".")[0])
    return names - set(PACKAGES) - sys.stdlib_module_names - {"tests"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    # From a copy, so that no build folder of this tree slips in and none is left behind.
    for name in (*PACKAGES, "pyproject.toml", "README.md", "LICENSE"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(source)], check=True)
    build = ("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), str(source))
    done = python(*build)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next(folder.glob("pleach-*.whl")))


def test_the_wheel_holds_every_module_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == set().union(*(modules(package) for package in PACKAGES))


def test_every_folder_with_code_is_a_package() -> None:
    for package in (*PACKAGES, "tests"):
        for file in (ROOT / package).rglob("*.py"):
            assert (file.parent / "__init__.py").exists(), f"{file.parent} would be missing from the wheel"


def test_the_wheel_claims_four_names_and_is_not_for_a_public_index(wheel: zipfile.ZipFile) -> None:
    folder = next(name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name)
    assert wheel.read(f"{folder}/top_level.txt").decode().split() == sorted(PACKAGES)
    about = email.message_from_bytes(wheel.read(f"{folder}/METADATA"))
    assert "Private :: Do Not Upload" in about.get_all("Classifier", [])
    assert "Typing :: Typed" in about.get_all("Classifier", [])
    assert about["License-Expression"] == "Apache-2.0"
    assert wheel.read(f"{folder}/entry_points.txt").decode().split() == [
        "[console_scripts]",
        "pleach",
        "=",
        "search.cli:main",
    ]
    assert f"{folder}/licenses/LICENSE" in wheel.namelist()


def test_every_package_that_is_imported_is_declared() -> None:
    owners = metadata.packages_distributions()
    declared = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    for name in set().union(*(imported(package) for package in PACKAGES)):
        assert {canonicalize_name(owner) for owner in owners.get(name, [name])} & declared, f"{name} is not declared"


def test_every_declared_dependency_is_used() -> None:
    owners = metadata.packages_distributions()
    used = {
        canonicalize_name(o) for package in PACKAGES for name in imported(package) for o in owners.get(name, [name])
    }
    assert {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]} <= used


def test_the_constraints_pin_all_that_is_needed_to_the_versions_that_are_tested() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pinned: dict[str, str] = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}
    assert all(re.fullmatch(r"==[^,*]+", str(pin.specifier)) for pin in pins)
    assert len(pinned) == len(pins)
    assert list(pinned) == sorted(pinned)
    waiting = [Requirement(line) for line in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]]
    needed: set[tuple[str, str]] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras}:
            if (name, extra) not in needed:
                needed.add((name, extra))
                for line in metadata.requires(requirement.name) or []:
                    further = Requirement(line)
                    if further.marker is None or further.marker.evaluate({"extra": extra}):
                        waiting.append(further)
    names = {name for name, _ in needed if not ACCELERATED.match(name)}
    assert names - set(pinned) == set(), "not pinned"
    if sys.platform == "linux" and sys.version_info[:2] == (3, 11):  # where the pins were made
        assert set(pinned) - names == set(), "pinned but not needed"
    installed = {name: metadata.version(name).partition("+")[0] for name in names}
    assert installed == {name: pinned[name] for name in names}


def test_our_own_installation_passes() -> None:
    check_installation()


@pytest.mark.parametrize("name", PACKAGES[:3])
def test_a_strangers_package_under_our_name_is_named_with_the_remedy(tmp_path: Path, name: str) -> None:
    stranger = tmp_path / name
    stranger.mkdir()
    (stranger / "__init__.py").write_text("GPU = 'zero'\n", encoding="utf-8")
    done = python("-c", f"import sys; sys.path.append({str(ROOT)!r}); import search.result", path=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"spaces.errors.InstallationError: the package {name} must be Pleach's in {ROOT}, but Python finds {stranger}: "
        "uninstall that one, take it off PYTHONPATH, or give Pleach a virtual environment of its own"
    )


def test_a_strangers_module_under_our_name_is_named_too(tmp_path: Path) -> None:
    (tmp_path / "spaces.py").write_text("", encoding="utf-8")
    done = python("-c", "import search.installation", path=tmp_path)
    assert f"but Python finds {tmp_path / 'spaces.py'}: uninstall that one" in done.stderr.splitlines()[-1]


def test_the_command_says_it_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "spaces").mkdir()
    (tmp_path / "spaces" / "__init__.py").write_text("", encoding="utf-8")
    done = python(str(Path(sys.executable).with_name("pleach")), "list", path=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"pleach: the package spaces must be Pleach's in {ROOT}, but Python finds {tmp_path}")
    assert done.stderr.count("\n") == 1


def test_a_package_installed_over_ours_is_noticed(tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", *(str(ROOT / name) for name in PACKAGES), str(tmp_path)], check=True)
    fine = python("-c", "import search.result", path=tmp_path)
    assert fine.returncode == 0, fine.stderr
    (tmp_path / "spaces" / "__init__.py").write_text("GPU = 'zero'\n", encoding="utf-8")
    done = python("-c", "import search.installation", path=tmp_path)
    assert done.returncode == 1
    assert "another one was installed over it" in done.stderr.splitlines()[-1]


def test_spaces_and_dashboards_work_without_torch() -> None:
    for package in ("spaces.search_policy", "dashboards"):
        done = python("-c", f"import sys, {package}; sys.exit('torch' in sys.modules)")
        assert done.returncode == 0, done.stderr
