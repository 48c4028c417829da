"""What holds for every profile: equal ones are equal texts, nothing in it is idle, and nothing hostile gets in."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces import POLICIES
from spaces.errors import ProfileError, StorageError
from spaces.profile import CompressionProfile, LayerOverride
from spaces.pruning import PruningPolicy
from spaces.reconnection import ReconnectionPolicy
from tests.spaces.strategies import json_values, plain, profiles, refusal

PRUNING = PruningPolicy(sparsity=0.9)
HALF = LayerOverride("*", "pruning", {"sparsity": 0.5})


def tampered(profile: CompressionProfile, data: st.DataObject) -> Any:
    """A valid profile's JSON with one value, somewhere, replaced by anything else."""
    tree: Any = profile.to_dict()
    node, key = None, None
    here = tree
    while isinstance(here, dict | list) and here and (node is None or data.draw(st.booleans())):
        node, key = here, data.draw(st.sampled_from(sorted(here) if isinstance(here, dict) else range(len(here))))
        here = node[key]
    node[key] = data.draw(json_values)  # type: ignore[index]
    return tree


@given(profiles())
def test_a_profile_survives_json(profile: CompressionProfile) -> None:
    again = CompressionProfile.from_json(profile.to_json())
    assert again == profile
    assert again.to_json() == profile.to_json()
    for name, value in profile.parameters().items():
        assert plain(again.parameters()[name]) == plain(value)


@given(profiles(), profiles())
def test_fingerprints_are_equal_exactly_where_profiles_are(one: CompressionProfile, other: CompressionProfile) -> None:
    assert (one == other) == (one.fingerprint() == other.fingerprint())
    assert (one == other) == (one.to_json() == other.to_json())


@given(profiles(), st.randoms(use_true_random=False))
def test_the_order_in_which_things_are_said_does_not_matter(profile: CompressionProfile, random: Any) -> None:
    def shuffled(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        keys = list(node)
        random.shuffle(keys)
        return {key: shuffled(node[key]) for key in keys}

    again = CompressionProfile.from_dict(shuffled(profile.to_dict()))
    assert again == profile
    assert again.fingerprint() == profile.fingerprint()


def test_the_json_is_canonical() -> None:
    profile = CompressionProfile.of(PRUNING, layers=[LayerOverride("layer3.*", "pruning", {"sparsity": 0})])
    assert json.loads(profile.to_json()) == {
        "schema": 1,
        "policies": {
            "pruning": {
                "allocation": "global",
                "criterion": "magnitude",
                "exclude": "none",
                "granularity": "weight",
                "interval": 0.03,
                "last_prune": 0.7,
                "schedule": "gradual",
                "sparsity": 0.9,
            }
        },
        "layers": [{"match": "layer3.*", "policy": "pruning", "values": {"sparsity": 0.0}}],
    }
    assert '"sparsity": 0.0' in profile.to_json()
    assert profile.to_json() == json.dumps(json.loads(profile.to_json()), sort_keys=True, indent=2)


def test_equal_numbers_of_another_kind_make_the_same_profile() -> None:
    written = [
        CompressionProfile.of(PRUNING, layers=[LayerOverride("*", "pruning", {"sparsity": zero})])
        for zero in (0, 0.0, -0.0)
    ]
    assert len({profile.fingerprint() for profile in written}) == 1
    assert PruningPolicy(sparsity=-0.0) == PruningPolicy(sparsity=0)
    assert json.dumps(PruningPolicy(sparsity=-0.0).sparsity) == "0.0"


@given(profiles())
def test_every_number_in_a_profile_acts(profile: CompressionProfile) -> None:
    for name, policy in profile.policies.items():
        named = profile.to_dict()["policies"][name]
        assert set(named) == {knob for knob in policy.knobs() if policy.acts(knob, profile.policies)}
        for knob in policy.knobs().values():
            if knob.name not in named:
                assert getattr(policy, knob.name) == knob.default
                data = profile.to_dict()
                data["policies"][name][knob.name] = knob.default
                message = refusal(CompressionProfile.from_dict, data)
                assert message is not None
                assert message.startswith(f"{name}.{knob.name} acts only where ")


def test_a_schedule_under_a_mode_that_starts_sparse_is_refused() -> None:
    rigl = ReconnectionPolicy(mode="rigl")
    message = re.escape("pruning.schedule acts only where reconnection.mode is gmp_regrow, but it is set: leave it out")
    with pytest.raises(ProfileError, match=message):
        CompressionProfile.of(PruningPolicy(schedule="iterative"), rigl)
    for knob, value in {"schedule": "gradual", "last_prune": 0.7, "interval": 0.03}.items():
        text = {"schema": 1, "policies": {"pruning": {knob: value}, "reconnection": {"mode": "rigl"}}, "layers": []}
        assert f"pruning.{knob} acts only where" in str(refusal(CompressionProfile.from_dict, text))
    profile = CompressionProfile.of(PRUNING, rigl)
    assert "pruning.schedule" not in profile.parameters()
    pruning = profile.get(PruningPolicy)
    assert pruning is not None
    assert pruning.schedule == "oneshot"
    assert profile.get(ReconnectionPolicy) == rigl
    assert CompressionProfile.of(rigl).get(PruningPolicy) is None


def test_overrides_merge_in_order_and_cover_a_layer_and_its_weights() -> None:
    profile = CompressionProfile.of(
        PRUNING,
        layers=[
            LayerOverride("layer3.*", "pruning", {"sparsity": 0.5}),
            LayerOverride("layer3.0.conv1", "pruning", {"sparsity": 0.25}),
        ],
    )
    assert profile.overrides("pruning", "layer3.1.conv1.weight") == {"sparsity": 0.5}
    assert profile.overrides("pruning", "layer3.0.conv1.weight") == {"sparsity": 0.25}
    assert profile.overrides("pruning", "layer3.0.conv1") == {"sparsity": 0.25}
    assert profile.overrides("pruning", "layer2.0.conv1.weight") == {}
    assert profile.overrides("reconnection", "layer3.0.conv1.weight") == {}
    assert profile.parameters()["pruning.sparsity@layer3.*"] == 0.5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (LayerOverride("*", "pruning", {"sparsty": 0.1}), "pruning has no knob 'sparsty': did you mean 'sparsity'?"),
        (LayerOverride("*", "pruning", {"sparsity": 7}), "pruning.sparsity@* must lie in [0, 0.9999], but is 7: the"),
        (LayerOverride("*", "pruning", {"exclude": "both"}), "pruning.exclude cannot differ by layer: of this policy"),
        (LayerOverride("*", "pruning", {}), "the layers '*' override nothing of pruning: leave them out"),
        (LayerOverride("*", "reconnection", {"zeta": 0.1}), "override reconnection, but it is off: turn it on"),
        (LayerOverride("*", "prunning", {"sparsity": 0.1}), "no policy 'prunning': did you mean 'pruning'?"),
    ],
)
def test_an_override_that_cannot_hold_is_refused(override: LayerOverride, message: str) -> None:
    with pytest.raises(ProfileError, match=re.escape(message)):
        CompressionProfile.of(PRUNING, layers=[override])


def test_an_override_of_a_knob_that_does_not_act_is_refused() -> None:
    with pytest.raises(ProfileError, match="sparsity acts only where granularity is weight or channel"):
        CompressionProfile.of(PruningPolicy(granularity="nm"), layers=[HALF])


def test_one_pattern_overrides_a_policy_once() -> None:
    twice = [LayerOverride("*", "pruning", {"sparsity": 0.1}), LayerOverride("*", "pruning", {"sparsity": 0.2})]
    with pytest.raises(ProfileError, match="override pruning more than once: put the values together"):
        CompressionProfile.of(PRUNING, layers=twice)


@pytest.mark.parametrize("match", ["", "a\nb", "\ud800", None, 3, ["*"]])
def test_a_pattern_is_printable_text(match: Any) -> None:
    message = refusal(LayerOverride, match, "pruning", {"sparsity": 0.1})
    assert message is not None
    assert message.startswith("match must be a layer name pattern, but is ")
    assert message.isprintable()


def test_a_policy_stands_under_its_own_name() -> None:
    with pytest.raises(ProfileError, match="pruning must be a PruningPolicy, but is ReconnectionPolicy"):
        CompressionProfile({"pruning": ReconnectionPolicy()})
    with pytest.raises(ProfileError, match="there is no policy 'prunning': did you mean 'pruning'"):
        CompressionProfile({"prunning": PRUNING})


def test_a_profile_does_not_follow_what_it_was_built_from() -> None:
    values: dict[str, Any] = {"sparsity": 0.5}
    policies = {"pruning": PRUNING}
    profile = CompressionProfile(policies, (LayerOverride("*", "pruning", values),))
    before = profile.fingerprint()
    values["sparsity"] = 0.1
    policies.clear()
    assert profile.fingerprint() == before


@given(json_values)
def test_no_json_does_worse_than_a_profile_error(value: Any) -> None:
    text = json.dumps(value)
    message = refusal(CompressionProfile.from_json, text)
    assert message is not None
    assert message.isprintable()


@given(profiles(), st.data())
def test_no_tampering_does_worse_than_a_profile_error(profile: CompressionProfile, data: Any) -> None:
    tree = tampered(profile, data)
    message = refusal(CompressionProfile.from_json, json.dumps(tree))
    if message is None:
        again = CompressionProfile.from_dict(tree)
        assert CompressionProfile.from_json(again.to_json()) == again
    else:
        assert message.isprintable()


@given(st.text() | st.sampled_from(["{", "[" * 200_000, "9" * 5000, '{"schema": 1e999}', "\ufeff{}", "nul"]))
def test_no_text_does_worse_than_a_profile_error(text: str) -> None:
    message = refusal(CompressionProfile.from_json, text)
    assert message is not None
    assert message.isprintable()


def test_a_value_as_deep_as_the_reader_allows_is_only_refused() -> None:
    depth = 900
    deep = '{"schema": 1, "policies": {"pruning": {"sparsity": ' + "[" * depth + "]" * depth + '}}, "layers": []}'
    assert "pruning.sparsity must be a number, but is [[[" in str(refusal(CompressionProfile.from_json, deep))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "a profile's schema must be 1, but is 2"),
        ({"schema": True}, "a profile's schema must be 1, but is True"),
        ({"schema": 1.0}, "a profile's schema must be 1, but is 1.0"),
        ({"extra": 0}, "a profile must be an object with schema, policies and layers"),
        ({"policies": []}, "a profile's policies must map a policy to its knobs"),
        ({"policies": {"pruning": 0.9}}, "a profile's policies must map a policy to its knobs"),
        ({"policies": {"prunin": {}}}, "there is no policy 'prunin': did you mean 'pruning'?"),
        ({"policies": {"pruning": {"sparsty": 0.9}}}, "pruning has no knob 'sparsty': did you mean 'sparsity'?"),
        ({"policies": {"pruning": {"sparsity": "0.9"}}}, "pruning.sparsity must be a number, but is '0.9'"),
        ({"layers": {}}, "a profile's layers must be a list of {match, policy, values}"),
        ({"layers": [{"match": "*", "policy": ["pruning"], "values": {}}]}, "a profile's layers must be a list"),
        ({"layers": [{"match": ["*"], "policy": "pruning", "values": {"sparsity": 0.1}}]}, "match must be a layer"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], message: str) -> None:
    data = CompressionProfile.of(PRUNING).to_dict() | change
    with pytest.raises(ProfileError, match=re.escape(message)):
        CompressionProfile.from_dict(data)


@given(profiles())
def test_a_saved_profile_loads(tmp_path_factory: pytest.TempPathFactory, profile: CompressionProfile) -> None:
    path = tmp_path_factory.mktemp("profiles") / "profile.json"
    profile.save(path)
    assert CompressionProfile.load(path) == profile
    assert path.read_text(encoding="utf-8") == profile.to_json()


def test_a_file_that_cannot_be_used_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written"):
        CompressionProfile().save(tmp_path / "nowhere" / "profile.json")
    with pytest.raises(StorageError, match="cannot be read"):
        CompressionProfile.load(tmp_path / "absent.json")
    with pytest.raises(StorageError, match="cannot be read"):
        CompressionProfile.load("a\0b")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StorageError, match="cannot be read"):
        CompressionProfile.load(tmp_path / "binary.json")


def test_every_policy_may_be_off() -> None:
    empty = CompressionProfile()
    assert empty.parameters() == {}
    assert all(empty.get(policy) is None for policy in POLICIES.values())
    assert CompressionProfile.from_json(empty.to_json()) == empty
