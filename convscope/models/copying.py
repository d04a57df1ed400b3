"""A copy of a user's network, to do with as one likes."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from convscope.errors import ModelError, first_line


def copied(module: nn.Module) -> nn.Module:
    """A copy that shares nothing with it. ModelError for what Python cannot copy."""
    computed = (
        value
        for inner in module.modules()
        for value in vars(inner).values()
        if isinstance(value, Tensor) and not value.is_leaf  # such as old weight norm's, which refuse to be copied
    )
    try:
        return copy.deepcopy(module, {id(value): value.detach().clone() for value in computed})
    except Exception as error:  # whatever a user's module holds
        raise ModelError(f"{type(module).__name__} cannot be copied: {first_line(error)}") from None
