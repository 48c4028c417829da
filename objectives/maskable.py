"""Which weights may be switched off: the one list that surgery masks and objectives count."""

from __future__ import annotations

from torch import nn

CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
#: MultiheadAttention keeps one `in_proj_weight`, or three where keys or values have a width of their own.
_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def maskable(network: nn.Module) -> dict[str, nn.Parameter]:
    """The weights whose entries are connections, by qualified name (``layer1.0.conv1.weight``), in module order.

    These are the weights of Conv1-3d, ConvTranspose1-3d and Linear, ``weight_ih*``/``weight_hh*`` of RNN, LSTM, GRU and
    their cells, and the input and output projections of MultiheadAttention. Biases, norms and embeddings are left out.
    A tied weight appears once, under the name that comes first; one that is tied to an embedding does not appear,
    because a connection switched off there would change what a token is.

    Returns:
        The parameters themselves, not copies. Empty where the network has none.
    """
    embeddings = {id(m.weight) for m in network.modules() if isinstance(m, _EMBEDDINGS)}
    found: dict[str, nn.Parameter] = {}
    seen = set(embeddings)
    for prefix, module in network.named_modules():
        # `_parameters` rather than attributes: a parametrized weight is computed, so masking what it returns is lost.
        for name, parameter in module._parameters.items():
            if parameter is None or id(parameter) in seen or not _is_connection(module, name):
                continue
            if not parameter.is_floating_point():
                continue
            seen.add(id(parameter))
            found[f"{prefix}.{name}" if prefix else name] = parameter
    return found


def _is_connection(module: nn.Module, name: str) -> bool:
    if isinstance(module, (*CONVOLUTIONS, nn.Linear)):
        return name == "weight"
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return name.startswith(("weight_ih", "weight_hh"))
    return isinstance(module, nn.MultiheadAttention) and name in _ATTENTION
