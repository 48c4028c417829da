"""Study files, profiles, criteria and what else is read as text."""

from __future__ import annotations

import tempfile
import tomllib
from pathlib import Path
from typing import Any

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from objectives.criterion import parse, parse_bound
from search.study_file import StudyFile
from spaces import POLICIES
from spaces.errors import CriterionError, ProfileError, StudyFileError
from spaces.profile import CompressionProfile, LayerOverride
from spaces.pruning import PruningPolicy
from spaces.search_policy import SearchPolicy
from tests.fuzz.bent import ODD, as_json, bent, changed, deep, odd_values
from tests.fuzz.oracle import accepted
from tests.search.test_study_file import FULL

FOLDER = Path("/nowhere")
BUDS = """
[study]
name = "buds"
trials = 3
[task]
target = "digits"
[objectives]
accuracy = "maximize"
macs = "minimize"
[spaces.budding]
assurance = {low = 0.0, high = 0.6}
[spaces.finetuning]
"""
EVERYTHING = """
[study]
name = "all"
sampler = "tpe"
[task]
target = "cifar10"
args = {depth = 20}
[objectives]
accuracy = "maximize"
sparsity = "maximize"
[constraints]
bops = "<= 0.2 * baseline"
[budget]
epochs = 1.5
timeout = "10m"
""" + "\n".join(f"[spaces.{name}]\noptional = true" for name in POLICIES if name != "budding")
STUDIES = [tomllib.loads(text) for text in (FULL, BUDS, EVERYTHING)]
PROFILE = CompressionProfile.of(
    PruningPolicy(sparsity=0.75), layers=[LayerOverride("layer3.*", "pruning", {"sparsity": 0.5})]
)
PROFILES = [PROFILE.to_dict(), CompressionProfile.of(*(POLICIES[n]() for n in POLICIES if n != "budding")).to_dict()]
WORDS = [
    "accuracy",
    "macs",
    "baseline",
    "and",
    ">=",
    "<=",
    "+",
    "-",
    "*",
    "0.5",
    "1e999",
    "1e-999",
    "-0.01",
    "nan",
    "(",
    ".",
]
BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
)


@given(changed(STUDIES))
@example({**STUDIES[0], "study": {**STUDIES[0]["study"], "name": deep(900)}})
@example({**STUDIES[0], "spaces": deep(2000)})
def test_a_changed_study_is_read_or_refused(tree: Any) -> None:
    file = accepted(lambda: StudyFile.of(tree, FOLDER), StudyFileError)
    if file is not None:
        # What was taken is kept as text, and must be found again.
        assert StudyFile.parse(file.text, FOLDER).model_dump() == file.model_dump()
        accepted(lambda: file.task_reference)
        assert file.space.policies
        file.check_continues(file)


@given(bent([FULL.encode(), BUDS.encode(), EVERYTHING.encode()]), st.just("study.toml"))
@example(b"x = " + b"[" * 100_000, "study.toml")
@example(b"x = {a=" * 5000, "study.toml")
@example(b"study.name." + b"a." * 20_000 + b"b = 1", "study.toml")
@example(b"x = " + b"9" * 20_000, "study.toml")
@example(b"x: " + b"[" * 100_000, "study.yaml")
@example(b"x: &a [*a]\nstudy: *a\n", "study.yaml")
@example(b"study: &a {name: x, more: *a}\ntask: *a\n", "study.yaml")
@example(BOMB.encode(), "study.yaml")
@example(f"{BOMB}\nstudy: {{name: *a8}}\n".encode(), "study.yaml")
@example(b"study: !!python/object/apply:os.system ['false']\n", "study.yaml")
@example(b"study: !!binary '****'\n", "study.yaml")
@example(b"study: !!timestamp 2001-99-99\n", "study.yaml")
@example(b"study: {name: 2001-01-01}\n", "study.yaml")
@example(b"? [a, b]\n: 1\n", "study.yaml")
@example(b"? {a: b}\n: 1\n", "study.yaml")
@example(b"a: 0x" + b"f" * 5000, "study.yaml")
@example(b"a: 1" + b":59" * 3000, "study.yaml")
@example(b"<<: 3\n", "study.yaml")
@example(b"--- 1\n--- 2\n", "study.yaml")
def test_a_bent_study_file_is_read_or_refused(data: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / name
        path.write_bytes(data)
        accepted(lambda: StudyFile.load(path), StudyFileError)


@given(bent([yaml.safe_dump(tree).encode() for tree in STUDIES]))
def test_a_bent_study_file_in_yaml_is_read_or_refused(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    accepted(lambda: StudyFile.parse(text, FOLDER, syntax="yaml"), StudyFileError)


@given(changed(PROFILES))
@example(deep(5000))
def test_a_changed_profile_is_read_or_refused(tree: Any) -> None:
    profile = accepted(lambda: CompressionProfile.from_dict(tree), ProfileError)
    if profile is not None:
        assert CompressionProfile.from_json(profile.to_json()).fingerprint() == profile.fingerprint()
        assert profile.parameters() is not None


@given(bent([PROFILE.to_json().encode()]))
@example(b"[" * 200_000)
@example(b'{"schema": ' + b"1" * 10_000 + b"}")
@example(b'{"schema": 1, "schema": NaN}')
def test_a_bent_profile_is_read_or_refused(data: bytes) -> None:
    accepted(lambda: CompressionProfile.from_json(data.decode("utf-8", "replace")), ProfileError)


@given(changed([SearchPolicy("space").to_dict()]))
def test_a_changed_search_policy_is_read_or_refused(tree: Any) -> None:
    found = accepted(lambda: SearchPolicy.from_dict(tree), ProfileError)
    if found is not None:
        assert SearchPolicy.from_json(found.to_json()) == found


@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=4), max_size=14).map(" ".join))
@example("accuracy >= " + "9" * 5000)
@example("(" * 50_000)
@example("accuracy >= 0.5 and " * 5000 + "macs <= 1")
def test_any_criterion_is_read_or_refused(text: str) -> None:
    found = accepted(lambda: parse(text), CriterionError)
    if found is not None:
        assert parse(" and ".join(map(str, found))) == found
    accepted(lambda: parse_bound("macs", text), CriterionError)


@given(odd_values())
def test_what_is_no_text_at_all_is_no_profile(value: Any) -> None:
    accepted(lambda: CompressionProfile.from_json(as_json(value).decode("utf-8", "replace")), ProfileError)
    accepted(lambda: CompressionProfile.of(PruningPolicy.from_values({"sparsity": value})), ProfileError)


def test_the_odd_values_are_odd() -> None:
    assert len(ODD) > 40
