"""Logging a network to MLflow as a torch.export program: no pickle, any batch size, explicit run ids."""

from __future__ import annotations

import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import mlflow.pytorch
import numpy as np
import torch
from mlflow.entities import LoggedModelOutput
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec
from torch import Tensor, nn

from search.formats.lowered import lowered
from search.record.store import Store
from spaces.errors import ExportError

with warnings.catch_warnings():
    # MLflow warns about a type hint of its own while `save_model` first loads this module.
    warnings.filterwarnings("ignore", ".*Any type hint is inferred as AnyType", UserWarning)
    import mlflow.pyfunc

#: The alias of the best model of a study.
CHAMPION = "champion"


def log_model(store: Store, run: str, network: nn.Module, inputs: tuple[Tensor, ...], *, step: int) -> str:
    """Save a network under a run.

    Args:
        store: Where to.
        run: The trial's run.
        network: In eval mode, on the CPU.
        inputs: Example inputs with a batch of at least 2: a batch of 1 would be baked into the program.
        step: The iteration the model stands for.

    Returns:
        The model's id: ``models:/<id>`` loads it.

    Raises:
        ExportError: If torch.export cannot take the network.
        StorageError: If the database cannot be used.
    """
    with tempfile.TemporaryDirectory() as folder, store.translated():
        client = store.client
        logged = client.create_logged_model(store.experiment, name="model", source_run_id=run)
        identity = Model(model_uuid=logged.model_id, run_id=run, model_id=logged.model_id)
        try:
            _save(network, inputs, Path(folder) / "model", identity)
        except Exception as error:  # what torch.export raises has no root of its own
            client.finalize_logged_model(logged.model_id, "FAILED")
            said = " ".join(str(error).split())[:200]
            raise ExportError(
                f"torch.export must take the network, but does not ({type(error).__name__}: {said}): "
                "it is not logged as a model, its weights are in the trial's folder"
            ) from error
        client.log_model_artifacts(logged.model_id, str(Path(folder) / "model"))
        client.finalize_logged_model(logged.model_id, "READY")
        client.log_outputs(run, [LoggedModelOutput(logged.model_id, step)])
        return str(logged.model_id)


def register(store: Store, run: str, model: str, name: str) -> None:
    """Register a logged model under a name and point the alias ``champion`` at it.

    Raises:
        StorageError: If the database cannot be used.
    """
    with store.translated():
        client = store.client
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        # Without a server MLflow resolves ``models:/<id>`` in its process-wide store, not in this one.
        source = f"models:/{model}" if store.served else client.get_logged_model(model).artifact_location
        known = [version for version in client.search_model_versions(f"name = '{name}'") if version.run_id == run]
        made = known[0] if known else client.create_model_version(name, source, run_id=run, model_id=model)
        client.set_registered_model_alias(name, CHAMPION, made.version)


def logged_models(store: Store, run: str) -> list[str]:
    """The ids of the models that a run already has.

    Raises:
        StorageError: If the database cannot be used.
    """
    with store.translated():
        outputs = store.client.get_run(run).outputs
        return [output.model_id for output in outputs.model_outputs] if outputs else []


def _save(network: nn.Module, inputs: tuple[Tensor, ...], path: Path, identity: Model) -> None:
    network = lowered(network)
    with torch.no_grad():
        outputs = network(*inputs)
        mlflow.pytorch.save_model(
            network,
            path,
            mlflow_model=identity,
            signature=ModelSignature(inputs=_schema(*inputs), outputs=_schema(outputs)),
            input_example=inputs[0].numpy() if len(inputs) == 1 else tuple(value.numpy() for value in inputs),
            pip_requirements=[f"{name}=={version(name)}" for name in ("mlflow", "torch", "numpy")],
            serialization_format="pt2",
        )


def _schema(*tensors: Tensor) -> Schema:
    """Shapes with a free batch dimension. One tensor has no name, several are numbered, as MLflow wants it."""
    specs: list[ColSpec | TensorSpec] = [
        TensorSpec(
            np.dtype(str(value.dtype).removeprefix("torch.")),
            (-1, *value.shape[1:]),
            f"input_{index}" if len(tensors) > 1 else None,
        )
        for index, value in enumerate(tensors)
    ]
    return Schema(specs)
