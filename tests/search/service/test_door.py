"""What a request must be before it is looked at: not too many, not in clear where others listen, JSON and no more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.service.asking import DEEPEST, from_json
from search.service.rates import Rate
from search.service.server import Address, is_loopback
from spaces.errors import RequestError, StorageError

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 3)), max_size=60))
def test_nobody_calls_more_than_his_burst_and_his_rate(calls: list[tuple[str, float]]) -> None:
    clock = Clock()
    rate = Rate(2.0, 5.0, clock=clock)
    granted = {"a": 0, "b": 0}
    for caller, pause in calls:
        clock.now += pause
        wait = rate.take(caller)
        granted[caller] += wait == 0
        assert granted[caller] <= 5 + 2 * clock.now + 1e-9
        if wait:
            clock.now += wait + 1e-9
            assert rate.take(caller) == 0  # who waits as long as he is told has his call
            granted[caller] += 1


def test_who_is_forgotten_loses_nothing() -> None:
    clock = Clock()
    rate = Rate(1.0, 1.0, callers=2, clock=clock)
    assert [rate.take(caller) for caller in "abc"] == [0, 0, 0]
    assert rate.take("c") == pytest.approx(1.0)
    assert rate.take("a") == 0


@given(plain)
def test_json_is_read_as_it_was_written(value: object) -> None:
    assert from_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    "body", [b"NaN", b"-Infinity", b"1e999", b'"\\ud800"', b"\xff", b"{", b"", b"9" * 5000, b"[" * 100_000]
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError, match="the body must be JSON"):
        from_json(body)


def test_json_is_as_deep_as_it_may_be_and_no_deeper() -> None:
    assert from_json(b"[" * DEEPEST + b"]" * DEEPEST)
    with pytest.raises(RequestError, match="deeper: flatten it"):
        from_json(b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1))


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("localhost", True), ("127.8.8.8", True), ("::1", True), ("0.0.0.0", False), ("", False)],
)
def test_only_this_machine_reaches_the_loopback(host: str, alone: bool) -> None:
    assert is_loopback(host) is alone
    if alone:
        Address(host).check()
    else:
        with pytest.raises(RequestError, match="--certificate and --key, or --insecure"):
            Address(host).check()
        Address(host, insecure=True).check()


def test_tls_takes_a_certificate_and_its_key(tmp_path: Path) -> None:
    file = tmp_path / "some.pem"
    file.write_text("no certificate", encoding="utf-8")
    with pytest.raises(RequestError, match="give both"):
        Address(certificate=file).check()
    with pytest.raises(StorageError, match="must be a certificate and its key"):
        Address("0.0.0.0", certificate=file, key=file).check()
