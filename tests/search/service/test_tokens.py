"""Tokens open what their rights name, and the file that knows them gives none away."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.home import Home
from search.service.tokens import RIGHTS, Tokens, rights
from spaces.errors import RequestError, StorageError


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens.of(Home(tmp_path / "home"))


def test_a_token_is_found_and_no_other(tokens: Tokens) -> None:
    assert tokens.find("anything") is None
    secrets = {name: tokens.add(name, ("read",)) for name in ("a", "b")}
    assert len(set(secrets.values())) == 2
    for name, secret in secrets.items():
        found = tokens.find(secret)
        assert found is not None
        assert found.name == name
        for wrong in (secret[:-1], secret + "x", secret.upper(), found.digest, name, ""):
            assert tokens.find(wrong) is None


def test_the_file_is_its_owners_alone_and_holds_no_token(tokens: Tokens) -> None:
    before = os.umask(0)
    try:
        secret = tokens.add("a", RIGHTS)
    finally:
        os.umask(before)
    assert stat.S_IMODE(tokens.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(tokens.path.parent.stat().st_mode) == 0o700
    text = tokens.path.read_text(encoding="utf-8")
    assert secret not in text
    assert secret.removeprefix("pleach_") not in text
    assert [kept["name"] for kept in json.loads(text)["tokens"]] == ["a"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_file_that_others_reach_opens_nothing(tokens: Tokens, mode: int) -> None:
    secret = tokens.add("a", RIGHTS)
    tokens.path.chmod(mode)
    with pytest.raises(StorageError, match="chmod 600"):
        tokens.find(secret)


def test_another_process_sees_a_change_at_once(tokens: Tokens) -> None:
    other = Tokens(tokens.path)
    secret = tokens.add("a", ("read",))
    assert other.find(secret) is not None
    tokens.revoke("a")
    assert other.find(secret) is None


def test_a_name_has_one_token_until_it_is_revoked(tokens: Tokens) -> None:
    first = tokens.add("a", ("read",))
    with pytest.raises(RequestError, match="revoke it first"):
        tokens.add("a", ("read",))
    tokens.revoke("a")
    assert tokens.add("a", ("read",)) != first
    with pytest.raises(RequestError, match="did you mean 'a'"):
        tokens.revoke("aa")
    with pytest.raises(RequestError, match="rename it"):
        tokens.add("a b", ("read",))


@given(st.lists(st.sampled_from(RIGHTS), min_size=1))
def test_rights_are_read_as_they_are_written(named: list[str]) -> None:
    assert set(rights(" , ".join(named))) == set(named)


@pytest.mark.parametrize("text", ["", ",", "write", "read,launches"])
def test_what_is_no_right_is_named(text: str) -> None:
    with pytest.raises(RequestError, match="right"):
        rights(text)


def test_what_is_no_file_of_tokens_is_said(tokens: Tokens) -> None:
    tokens.add("a", ("read",))
    tokens.path.write_text('{"tokens": [{}]}', encoding="utf-8")
    with pytest.raises(StorageError, match="holds no tokens"):
        tokens.all()
