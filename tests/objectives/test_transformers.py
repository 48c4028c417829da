"""Models of transformers as tasks: from configurations and folders, offline, traced where they can be, compressed."""

from __future__ import annotations

import importlib.util
import io
import json
import math
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from objectives.accuracy import mean_score
from objectives.checking import check_task
from objectives.loading import load_task
from objectives.maskable import maskable
from objectives.task import call
from objectives.tasks.tables import class_names, split_rows
from objectives.tasks.trained import train
from objectives.tasks.transformers import Transformers
from objectives.tasks.transformers_data import BEGIN, END, FIRST, MASK, NOWHERE, PAD
from objectives.tasks.transformers_models import library
from search.surgery.network import prepared
from spaces.errors import TaskError
from tests.objectives.compressing import PRUNINGS, compressed

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None,
    reason="the package transformers is not installed: install the extra, pip install -e '.[transformers]'",
)

LAYERS = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "hidden_size": 16}
TEXT = LAYERS | {"max_position_embeddings": 32}
VISION = LAYERS | {"image_size": 8, "patch_size": 4, "num_channels": 1}
GPT2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
BART = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 32,
}
RESNET = {"num_channels": 1, "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}

T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}

#: Kind, configuration, and whether torch.fx must trace it.
CASES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "gpt2": ("causal-lm", GPT2, True),
    "llama": ("causal-lm", TEXT | {"model_type": "llama", "num_key_value_heads": 2}, True),
    "bert": ("masked-lm", TEXT | {"model_type": "bert"}, True),
    "bert-classifier": ("sequence-classification", TEXT | {"model_type": "bert"}, True),
    "gpt2-classifier": ("sequence-classification", GPT2, True),
    "vit": ("image-classification", VISION | {"model_type": "vit"}, True),
    "resnet": ("image-classification", RESNET | {"model_type": "resnet"}, True),
    "bart": ("seq2seq", BART | {"model_type": "bart"}, True),
    "t5": ("seq2seq", T5 | {"model_type": "t5"}, True),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of every kind: a text, labelled texts, pairs of texts."""
    folder = tmp_path_factory.mktemp("transformers")
    generator = np.random.default_rng(0)
    words = np.array(["sun", "rain", "wind", "snow"])
    lines = [" ".join(words[generator.integers(4, size=4)]) for _ in range(100)]
    labels = ["warm" if line.startswith(("sun", "wind")) else "cold" for line in lines]
    (folder / "text.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    pd.DataFrame({"text": lines, "label": labels}).to_csv(folder / "labelled.csv", index=False)
    pd.DataFrame({"source": lines, "target": [line[:3] for line in lines]}).to_csv(folder / "pairs.csv", index=False)
    return folder


DATA = {
    "causal-lm": "text.txt",
    "masked-lm": "text.txt",
    "sequence-classification": "labelled.csv",
    "image-classification": None,
    "seq2seq": "pairs.csv",
}


def task_of(folder: Path, name: str, **arguments: Any) -> Transformers:
    kind, config, _ = CASES[name]
    data = DATA[kind] and str(folder / str(DATA[kind]))
    given: dict[str, Any] = {"data": data, "length": 16, "epochs": 1, "cache_dir": str(folder / "cache")}
    return Transformers(kind, config=config, **given | arguments)


@pytest.mark.parametrize("name", CASES)
def test_it_is_a_task_and_its_network_is_traced_or_says_why_not(folder: Path, name: str) -> None:
    task = task_of(folder, name)
    check_task(task)
    network = task.network()
    traced, why = prepared(network, task.example_inputs())
    assert why == "" or not CASES[name][2]
    assert "\n" not in why
    assert maskable(traced).keys() == maskable(network).keys()
    inputs, targets = next(iter(task.batches("validation", shuffle_seed=None)))
    with torch.no_grad():
        outputs = call(network, inputs)
        # Other samples than the ones it was traced with, and more of them.
        assert torch.equal(call(traced.eval(), inputs), outputs)
    assert outputs.shape[:1] + outputs.shape[2:] == targets.shape


@pytest.mark.parametrize(
    ("name", "granularity"), [(name, "nm" if number % 2 else "weight") for number, name in enumerate(CASES)]
)
def test_it_is_compressed(folder: Path, name: str, granularity: str) -> None:
    task = task_of(folder, name)
    result = compressed(task, PRUNINGS[granularity], epochs=1)
    assert set(task.evaluate(result.network, "validation")) <= set(result.scores)


@pytest.mark.parametrize("name", ["gpt2", "bert-classifier", "vit"])
def test_whole_channels_of_it_go(folder: Path, name: str) -> None:
    result = compressed(task_of(folder, name), PRUNINGS["channel"], epochs=1)
    assert result.scores["macs"] < result.baseline["macs"]
    assert result.scores["parameters"] < result.baseline["parameters"]


def test_more_training_tells_more(folder: Path) -> None:
    task = task_of(folder, "vit", epochs=6)
    assert mean_score(task.network(), task, "test") > 0.4
    brief = task_of(folder, "bert", epochs=1, seed=3)
    longer = task_of(folder, "bert", epochs=8, seed=3)
    bits = [each.evaluate(each.network(), "validation")["bits_per_token"] for each in (brief, longer)]
    assert bits[1] < bits[0] < 10
    assert task.evaluate(task.network(), "test") == {}
    assert len(task.labels("test")) == 360
    assert list(brief.labels("test")) == []


def test_training_repeats_and_the_cache_keeps_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(folder, "gpt2")
    first = task.network().state_dict()
    assert task.training is not None
    again = train(task, task.training).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    monkeypatch.setattr("objectives.tasks.trained.train", lambda *_: pytest.fail("trained again"))
    kept = task_of(folder, "gpt2").network()
    assert all(torch.equal(value, first[name]) for name, value in kept.state_dict().items())


def test_gpt2_has_linear_layers_that_compute_what_its_own_did(folder: Path) -> None:
    torch.manual_seed(0)
    plain = {name: value for name, value in GPT2.items() if name != "model_type"}
    config = library().AutoConfig.for_model("gpt2", vocab_size=260, **plain)
    own = library().AutoModelForCausalLM.from_config(config).eval()
    own.save_pretrained(folder / "gpt2")
    task = Transformers("causal-lm", folder=str(folder / "gpt2"), data=str(folder / "text.txt"), length=16)
    tokens = torch.randint(260, (2, 9))
    with torch.no_grad():
        expected = own(tokens).logits.transpose(1, 2)
        torch.testing.assert_close(task.network()(tokens), expected, rtol=1e-5, atol=1e-5)
    # Four layers; the head is the embedding.
    assert [tuple(weight.shape) for weight in maskable(task.network()).values()] == [
        (48, 16),
        (16, 16),
        (64, 16),
        (16, 64),
    ]


def test_a_folder_brings_its_tokenizer_its_labels_and_its_weights(folder: Path) -> None:
    path = save_classifier(folder / "classifier")
    task = Transformers("sequence-classification", folder=str(path), data=str(folder / "labelled.csv"), length=8)
    assert task.training is None
    check_task(task)
    ids, mask = task.example_inputs()
    first = pd.read_csv(folder / "labelled.csv")["text"][int(split_numbers(task)[0])].split()
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "sun": 3, "rain": 4, "wind": 5, "snow": 6}
    assert ids[0].tolist() == [*(vocabulary[word] for word in first), 0, 0, 0, 0]
    assert mask[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    # The names that the model has for its classes, not the order of the alphabet.
    labels = pd.read_csv(folder / "labelled.csv")["label"].iloc[split_numbers(task)]
    assert list(task.labels("train")) == [{"warm": 0, "cold": 1}[label] for label in labels]
    one, other = task.network(), task.network()
    assert torch.equal(one(ids, mask), other(ids, mask))
    compressed(
        Transformers("sequence-classification", str(path), None, str(folder / "labelled.csv"), 8, 2),
        PRUNINGS["weight"],
        1,
    )


def split_numbers(task: Transformers) -> np.ndarray:
    frame = pd.read_csv(str(task.data_set))
    return split_rows(len(frame), class_names(frame["label"]))["train"]


def save_classifier(path: Path) -> Path:
    tokenizers = library("tokenizers")
    words = ["[PAD]", "[UNK]", "[MASK]", "sun", "rain", "wind", "snow"]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = library().PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", mask_token="[MASK]"
    )
    fast.save_pretrained(path)
    torch.manual_seed(0)
    config = library().AutoConfig.for_model(
        "bert", vocab_size=7, pad_token_id=0, id2label={0: "warm", 1: "cold"}, label2id={"warm": 0, "cold": 1}, **TEXT
    )
    library().AutoModelForSequenceClassification.from_config(config).save_pretrained(path)
    return path


def test_a_language_model_reads_by_its_folders_tokenizer(folder: Path) -> None:
    path = save_classifier(folder / "masked")
    config = library().AutoConfig.for_model("bert", vocab_size=7, **TEXT)
    library().AutoModelForMaskedLM.from_config(config).save_pretrained(path)
    task = Transformers("masked-lm", folder=str(path), data=str(folder / "text.txt"), length=8)
    check_task(task)
    inputs, targets = next(iter(task.batches("test", shuffle_seed=None)))
    assert isinstance(inputs, Tensor)
    assert ((inputs == 2) == (targets != NOWHERE)).all()
    assert (torch.where(inputs == 2, targets, inputs) >= 3).all()


def test_hidden_tokens_are_few_at_least_one_and_change_with_the_seed(folder: Path) -> None:
    task = task_of(folder, "bert")
    first, second, fixed = (
        [targets != NOWHERE for _, targets in task.batches("train", shuffle_seed=seed)] for seed in (1, 2, None)
    )
    hidden = torch.cat(fixed)
    assert hidden.any(dim=1).all()
    assert 0.1 < float(hidden.float().mean()) < 0.25
    assert not torch.equal(first[0], second[0])
    inputs, targets = next(iter(task.batches("train", shuffle_seed=None)))
    assert isinstance(inputs, Tensor)
    assert ((inputs == MASK) == (targets != NOWHERE)).all()
    text = (folder / "text.txt").read_bytes()[:16]
    assert torch.where(inputs == MASK, targets, inputs)[0].tolist() == [FIRST + byte for byte in text]


def test_bytes_are_tokens_between_a_beginning_and_an_end(folder: Path) -> None:
    ids, mask = task_of(folder, "bert-classifier", length=32).example_inputs()
    length = int(mask[0].sum())
    assert ids[0, 0] == BEGIN
    assert ids[0, length - 1] == END
    assert (ids[0, length:] == PAD).all()
    assert (ids[0, 1 : length - 1] >= FIRST).all()
    task = task_of(folder, "bart", length=8)
    _, _, before = task.example_inputs()
    _, targets = next(iter(task.batches("train", shuffle_seed=None)))
    assert before[0, 0] == BEGIN
    assert targets[0].tolist()[3:] == [END, NOWHERE, NOWHERE, NOWHERE, NOWHERE]
    assert before[0, 1:4].tolist() == targets[0, :3].tolist()


def test_only_tokens_that_count_are_scored(folder: Path) -> None:
    task = task_of(folder, "gpt2")
    outputs_NVL = torch.tensor([[[3.0, 0.0, 0.0], [0.0, 2.0, 9.0]], [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]])
    targets_NL = torch.tensor([[0, 0, NOWHERE], [0, 0, 0]])
    assert task.score(outputs_NVL, targets_NL).tolist() == [0.5, 1.0]
    nats = [math.log(1 + math.exp(-3)), math.log(1 + math.exp(2)), *[math.log(1 + math.exp(-1))] * 3]
    assert float(task.loss(outputs_NVL, targets_NL)) == pytest.approx(sum(nats) / 5)

    class Uniform(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logit = nn.Parameter(torch.zeros(()))

        def forward(self, tokens: Tensor) -> Tensor:
            return self.logit.expand(tokens.shape[0], 512, tokens.shape[1])

    assert task.evaluate(Uniform(), "test") == {"bits_per_token": pytest.approx(9.0)}


def test_images_of_a_file_are_brought_to_the_models_size(folder: Path) -> None:
    def encoded(level: int) -> dict[str, bytes]:
        file = io.BytesIO()
        Image.new("L", (20, 12), level).save(file, format="PNG")
        return {"bytes": file.getvalue()}

    frame = pd.DataFrame({"image": [encoded(40 * (i % 2)) for i in range(20)], "label": [i % 2 for i in range(20)]})
    frame.to_parquet(folder / "images.parquet")
    task = task_of(folder, "vit", data=str(folder / "images.parquet"))
    images, labels = next(iter(task.batches("train", shuffle_seed=None)))
    assert isinstance(images, Tensor)
    assert images.shape == (12, 1, 8, 8)
    for image, label in zip(images, labels, strict=True):
        torch.testing.assert_close(image, torch.full((1, 8, 8), (40 * int(label) / 255 - 0.5) / 0.5))
    check_task(task)


def test_another_instance_takes_everything_from_shared_arrays(folder: Path, tmp_path: Path) -> None:
    task = task_of(folder, "bert-classifier")
    shared = task.arrays()
    for array in shared.values():
        array.flags.writeable = False
    other = task_of(tmp_path, "bert-classifier", cache_dir=str(tmp_path / "empty"))
    other.use(shared)
    assert mean_score(other.network(), other, "test") == mean_score(task.network(), task, "test")
    check_task(other)
    assert not (tmp_path / "empty").exists()


def test_nothing_is_asked_of_the_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    path = save_classifier(folder / "offline")
    Transformers("sequence-classification", str(path), data=str(folder / "labelled.csv"), length=8).network()
    assert "must be a local folder with a model, but bert-base-uncased is none" in refusal(
        kind="causal-lm", folder="bert-base-uncased"
    )


def refusal(**args: object) -> str:
    with pytest.raises(TaskError) as caught:
        load_task("transformers", args).network()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_missing_or_breaks_a_rule_is_named(folder: Path, tmp_path: Path) -> None:
    data = {"data": str(folder / "text.txt")}
    lm = {"kind": "causal-lm", "length": 16} | data
    assert "kind must be one of causal-lm" in refusal(kind="causal", config=GPT2)
    assert "either folder or config, but neither is given" in refusal(kind="causal-lm")
    assert "either folder or config, but both are given" in refusal(kind="causal-lm", config=GPT2, folder="x")
    assert "seq2seq needs data" in refusal(kind="seq2seq", config=BART)
    assert "config must have model_type" in refusal(config={"n_embd": 8}, **lm)
    assert "but has 'gpt-2': did you mean 'gpt2'" in refusal(config={"model_type": "gpt-2"}, **lm)
    assert "a config of gpt2 has no 'n_layers': did you mean 'n_layer'" in refusal(config=GPT2 | {"n_layers": 2}, **lm)
    assert "at least 260 tokens in vocab_size, but has 100" in refusal(config=GPT2 | {"vocab_size": 100}, **lm)
    assert "length must be at most the model's 32 positions, but is 64" in refusal(
        kind="causal-lm", config=GPT2, **data
    )
    assert "for masked-lm must be something that transformers builds" in refusal(
        kind="masked-lm", config=GPT2, length=16, **data
    )
    assert "epochs must be a whole number of at least 1, but is 0" in refusal(config=GPT2, epochs=0, **lm)
    (tmp_path / "bare").mkdir()
    assert "must hold config.json and weights as .safetensors" in refusal(folder=str(tmp_path / "bare"), **lm)
    assert "data must be a readable file" in refusal(config=GPT2, **lm | {"data": "none.txt"})
    assert "must have a column 'text', but has none" in refusal(
        kind="sequence-classification", config=GPT2, data=str(folder / "pairs.csv"), length=16
    )


def test_weights_that_a_folder_lacks_are_named_or_trained(folder: Path) -> None:
    plain = {name: value for name, value in GPT2.items() if name != "model_type"}
    path = folder / "headless"
    config = library().AutoConfig.for_model("gpt2", vocab_size=260, **plain)
    library().AutoModelForCausalLM.from_config(config).save_pretrained(path)
    arguments = {"kind": "sequence-classification", "folder": str(path), "data": str(folder / "labelled.csv")}
    assert "must hold all weights for sequence-classification, but" in (said := refusal(**arguments, length=16))
    assert "lacks score.weight: save the whole model, or train" in said
    trained = Transformers(**arguments, length=16, epochs=1, cache_dir=str(folder / "cache"))  # type: ignore[arg-type]
    check_task(trained)
    torn = folder / "torn"
    torn.mkdir()
    (torn / "config.json").write_text((path / "config.json").read_text(encoding="utf-8"), encoding="utf-8")
    (torn / "model.safetensors").write_bytes(b"torn")
    assert "the weights of" in refusal(kind="causal-lm", folder=str(torn), data=str(folder / "text.txt"), length=16)
    values = json.loads((path / "config.json").read_text(encoding="utf-8"))
    (torn / "config.json").write_text(json.dumps(values | {"auto_map": {"AutoConfig": "evil.Config"}}))
    (torn / "evil.py").write_text("raise SystemExit('code of a folder ran')")
    assert "the weights of" in refusal(kind="causal-lm", folder=str(torn), data=str(folder / "text.txt"), length=16)
