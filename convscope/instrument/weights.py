"""What a network is, as a key: any change of its weights is another."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from convscope.data.cache import key_of


def weights_key(network: nn.Module, without: Collection[Tensor] = ()) -> str:
    """The digest of all weights and buffers with their names, less those of ``without``."""
    left_out = {id(t) for t in without}
    state = {name: t for name, t in network.state_dict(keep_vars=True).items() if id(t) not in left_out}
    return key_of(*(part for n, t in state.items() for part in (n, tuple(t.shape), str(t.dtype), raw_bytes(t))))


def raw_bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
