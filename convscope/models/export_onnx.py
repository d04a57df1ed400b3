"""A classifier as an ONNX file: traced with sizes left open, and run by onnxruntime."""

from __future__ import annotations

import importlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from convscope.errors import ConvscopeError, ModelError
from convscope.models.classifier import Classifier, probabilities
from convscope.models.ending import Ending

OPEN = (256, 192)  # what a classifier without a canvas is traced at; not square, or the sides were taken for one
Outputs: TypeAlias = tuple[Tensor, Tensor]  # logits and probabilities


def require_packages() -> None:
    """Refuse where a package that an export to ONNX needs is missing."""
    try:
        for package in ("onnx", "onnxscript", "onnxruntime"):
            importlib.import_module(package)
    except ImportError as error:
        raise ConvscopeError(f"ONNX needs {error.name}, which is not there: pip install 'convscope[onnx]'") from None


class _Graph(nn.Module):
    """What is traced: the classifier with its batch left open, and the probabilities."""

    def __init__(self, classifier: Classifier, classes: int) -> None:
        super().__init__()
        self.classifier = classifier
        self.classes = classes

    def forward(self, pixels: Tensor) -> Outputs:
        with Ending() as ending:
            output = self.classifier.network(self.classifier.normalise(pixels))
        # Not len(pixels), which would be a number in the graph. A head that squeezes loses a batch of one: reshape.
        logits = self.classifier.logits(output, pixels.shape[0], ending.before).reshape(-1, self.classes).float()
        return logits, probabilities(logits)


def write_onnx(classifier: Classifier, file: Path, fixed: tuple[int, int] | None, about: Mapping[str, str]) -> None:
    """Trace a float32 classifier that has class names into one file. ``fixed``: its canvas; None leaves it open."""
    assert classifier.classes is not None
    height, width = fixed or OPEN
    dynamic = {0: "batch"} if fixed else {0: "batch", 2: "height", 3: "width"}
    example = torch.full((2, classifier.channels, height, width), 0.5)  # two, because one is taken for a constant
    try:
        with _quietly():
            program = torch.onnx.export(
                _Graph(classifier, len(classifier.classes)).eval(),
                (example,),
                dynamo=True,
                input_names=["pixels"],
                output_names=["logits", "probabilities"],
                dynamic_shapes=({axis: torch.export.Dim(name) for axis, name in dynamic.items()},),
                verbose=False,
            )
    except Exception as error:  # exporters raise nearly anything
        raise ModelError(f"{classifier.name} cannot be written as ONNX: {reason(error)}") from None
    assert program is not None
    shape = program.model.graph.inputs[0].shape
    if shape is None or any(isinstance(shape[axis], int) for axis in dynamic):
        raise ModelError(f"{classifier.name} cannot be written as ONNX: its forward fixes a size of its input")
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # the source lines of the user's code, by their places on this machine
    program.model.metadata_props.update(about)
    program.model.doc_string = about["how"]
    program.save(str(file), external_data=False)


def onnx_runner(file: Path, name: str) -> Callable[[Tensor], Outputs]:
    """The file as onnxruntime runs it, on the CPU."""
    onnxruntime: Any = importlib.import_module("onnxruntime")  # it has no types
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = torch.get_num_threads()
    session: Any = None

    def run(pixels: Tensor) -> Outputs:
        nonlocal session
        try:
            session = session or onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
            logits, shares = session.run(["logits", "probabilities"], {"pixels": pixels.numpy()})
        except Exception as error:  # as above
            size = "x".join(map(str, pixels.shape))
            raise ModelError(f"{name}: onnxruntime cannot run its export on {size}: {reason(error)}") from None
        return torch.from_numpy(logits), torch.from_numpy(shares)

    return run


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what exporters log, print and warn of; what matters is said by the error, or by the check."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)


def reason(error: BaseException) -> str:
    """The first line of what was at the bottom of an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    if type(error).__name__ == "GuardOnDataDependentSymNode":
        return "what it computes next depends on the values it computed, as by an if on a tensor"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
