"""A classifier as one file for elsewhere, with its preprocessing and class names, checked against the classifier.

ONNX: ``pixels`` float32 "batch channels height width" in [0, 1] -> ``logits`` and ``probabilities``; the normalisation
is in the graph. safetensors: the network's weights. Both carry, as texts, what ``_about`` lists.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from convscope import __version__
from convscope.errors import ConvscopeError, ModelError, UsageError, unknown
from convscope.images.frame import Framing
from convscope.models.checkpoint import load_state, read_state
from convscope.models.classes import Classes
from convscope.models.classifier import USUAL, Classifier, probabilities
from convscope.models.copying import copied
from convscope.models.export_onnx import OPEN, Outputs, onnx_runner, require_packages, write_onnx
from convscope.models.registry import RANDOM, SOURCES, Request, parse, resized
from convscope.models.run import read_settings
from convscope.types import Images

TOLERANCE = 1e-4  # the largest difference of a logit that passes, of the largest logit
TIE = 1e-5  # classes whose logits are nearer than this are not told apart in float32
PROBES = (3, 1)  # batches of images made up for the check
KEPT = ("mean", "std", "channels", "background")  # of a Classifier, by the names of its parameters
MOST = 2**31 - 2**22  # bytes of weights; an ONNX file holds 2 GiB with its graph

Photos: TypeAlias = Sequence[Image.Image]
About: TypeAlias = Callable[[Classifier, Framing, str], dict[str, str]]  # what a file says of itself


@dataclass(frozen=True)
class Checked:
    """An export that was run and gave what the classifier gives.

    ``images``: how many it was run on. ``difference``: the largest of the logits, over the largest logit. ``canvas``:
    the height and width that it takes, None for any. ``dtype``: what it computes in.
    """

    images: int
    difference: float
    canvas: tuple[int, int] | None
    dtype: str


def export(
    classifier: Classifier,
    path: Path,
    format: str,
    *,
    spec: str | None,
    options: Mapping[str, Any] | None = None,
    check_images: Iterable[Image.Image] | None = None,
) -> Checked:
    """Write ``classifier`` to ``path`` as "onnx" or "safetensors", and run the file against it, on the CPU.

    ``spec`` and ``options``: what built the network (of a run folder, its own are taken); without a specifier, which
    safetensors need, the file says the class. ``check_images``: photos to
    check on, beside four images that are made up. The classifier is left as it was; it is a copy that is exported. ONNX
    computes in float32, whatever the dtype of the weights: half ones are compared with the classifier in float32.

    A classifier without a canvas is exported for any height and width where that works, else for 224x224.

    Raises ModelError for a network that cannot be exported, ConvscopeError for an export that gives something else or
    a package that is missing; the file is not written then, and one that was there stays.
    """
    if format not in WRITERS:
        raise unknown("export format", format, WRITERS)
    if path.suffix.lower() != f".{format}":
        raise UsageError(f"{path}: a file of the format {format} ends in .{format}")
    if spec is None and format == "safetensors":
        raise UsageError(
            f"{path}: such a file holds weights, and how the network is built is said by a specifier: load the model "
            "by one, such as net.py:Net, or export it as .onnx"
        )
    spec, options = (type(classifier.network).__name__, {}) if spec is None else _origin(spec, options or {})
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    # Random numbers: what the network draws while it is built or run is nobody else's.
    with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng([]):
        own = _own(classifier)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            checked = WRITERS[format](own, part, partial(_about, spec, options), list(check_images or ()))
            os.replace(part, path)
        except OSError as error:
            raise ConvscopeError(f"cannot write {path}: {error.strerror or error}") from error
        finally:
            with suppress(OSError):
                part.unlink()
    return checked


def _origin(spec: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What builds the network's structure: of a run folder, what it was made from."""
    if parse(spec)[0] != "run":
        return spec, dict(options)
    run = read_settings(Path(parse(spec)[1]).expanduser())
    return run.spec, run.options


def _own(classifier: Classifier) -> Classifier:
    """A copy on the CPU, in evaluation mode. Tracing may leave things in a network, which must not be the user's."""
    made = copied(classifier)
    assert isinstance(made, Classifier)
    for module in made.modules():  # by hand: a module's own train() may do more
        module.training = False
    return made.to("cpu")


# What a file says of itself


def _about(spec: str, options: Mapping[str, Any], classifier: Classifier, framing: Framing, how: str) -> dict[str, str]:
    assert classifier.classes is not None
    try:
        told: dict[str, Any] = {"spec": spec, "options": _json(options)}
    except TypeError as error:
        raise UsageError(f"an export's options are numbers, texts and lists of them: {error}") from None
    told |= {
        "convscope": __version__,
        "classes": _json(classifier.classes.names),
        "framing": _json(asdict(framing)),
        "how": how,
        **{key: _json(getattr(classifier, key)) for key in KEPT},
    }
    if classifier.classes.synsets:
        told["synsets"] = _json(classifier.classes.synsets)
    return told


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def framed_in_words(framing: Framing, channels: int, background: str) -> str:
    """How a photo becomes the network's pixels, for people who have the file alone."""
    colours = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
    photo = f"Take the photo upright, on {background} where it is transparent"
    end = f'divide its bytes by 255, as float32 "batch {channels} height width"'
    if framing.size is None:
        return f"{photo}, as large as it is, in {colours}; {end}."
    height, width = framing.size
    filtered = f"with Pillow's {framing.interpolation} filter"
    if framing.short is None:
        fit = f"squash it to {height} high and {width} wide {filtered}"
    else:
        rows, cols = (side * framing.short // min(framing.size) for side in framing.size)
        kept = "squash it to" if framing.squash else "keep its aspect and resize it until it just covers"
        fit = f"{kept} {rows} high and {cols} wide {filtered}; cut out the centre, "
        place = f"row round((rows - {height}) / 2), column round((cols - {width}) / 2) of what was resized"
        fit += f"{height} high and {width} wide, from {place}, whose sides are rounded down"
    return f"{photo}, in {colours}; {fit}; {end}."


# safetensors


def _write_safetensors(given: Classifier, file: Path, about: About, photos: Photos) -> Checked:
    batches = _batches(given.framing, given.channels, [given.canvas] * 2, photos)
    wanted = [_finite(given, batch) for batch in batches]  # now it has class names
    framed = framed_in_words(given.framing, given.channels, given.background)
    how = f"{framed} Subtract mean and divide by std, for each channel."
    # Clones, because safetensors refuses tensors that share memory.
    state = {key: value.detach().contiguous().clone() for key, value in _tensors(given.network).items()}
    file.write_bytes(save(state, {"format": "pt", **about(given, given.framing, how)}))
    found = read_state(file)
    if found.keys() != state.keys() or not all(torch.equal(found[key], state[key]) for key in state):
        raise ConvscopeError(f"{given.name}: the weights came back changed from the file, which is not kept")
    rebuilt = _rebuilt(file, found)

    def run(pixels: Images) -> Outputs:
        logits = rebuilt(pixels)
        return logits, probabilities(logits)

    images, difference = _compared(given.name, batches, wanted, run)
    return Checked(images, difference, given.framing.size, str(given.dtype).removeprefix("torch."))


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {key: value for key, value in network.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}


def _rebuilt(file: Path, state: Mapping[str, Tensor]) -> Classifier:
    """The classifier that the file alone gives, with the code that its specifier names."""
    with safe_open(file, "pt") as opened:
        told = opened.metadata()
    said = {key: json.loads(told[key]) for key in (*KEPT, "options", "framing", "classes")}
    size = said["framing"].pop("size")
    framing = Framing(None if size is None else tuple(size), **said["framing"])
    prefix, name, _ = parse(told["spec"])
    network = SOURCES[prefix](Request(name, RANDOM, said["options"], framing.size)).network
    for key, tensor in _tensors(network).items():
        if key in state and not is_lazy(tensor):
            tensor.data = tensor.data.to(state[key].dtype)  # before they come, or doubles would be rounded
    load_state(network, state, f"of {told['spec']}")
    for module in network.modules():
        module.training = False
    return Classifier(network, Classes(tuple(said["classes"])), framing=framing, **{key: said[key] for key in KEPT})


# ONNX


def _write_onnx(given: Classifier, file: Path, about: About, photos: Photos) -> Checked:
    require_packages()
    size = 4 * sum(tensor.numel() for tensor in _tensors(given.network).values())
    if size > MOST:
        raise UsageError(f"{given.name} has {size / 1e9:.1f} GB of weights and ONNX holds 2: export to safetensors")
    kinds = {tensor.dtype for tensor in _tensors(given.network).values() if tensor.is_floating_point()}
    single = given if kinds <= {torch.float32} else copy.deepcopy(given).float()
    reference = given if given.dtype == torch.float64 else single

    def attempt(framing: Framing) -> Checked:
        fixed = framing.size
        batches = _batches(framing, given.channels, [fixed, fixed] if fixed else [USUAL, OPEN], photos)
        wanted = [_finite(reference, batch) for batch in batches]
        single.classes = reference.classes
        how = framed_in_words(framing, given.channels, given.background) + " The normalisation is in the graph."
        write_onnx(single, file, fixed, about(single, framing, how))
        images, difference = _compared(given.name, batches, wanted, onnx_runner(file, given.name))
        return Checked(images, difference, fixed, "float32")

    if given.framing.size is not None:
        return attempt(given.framing)
    try:
        return attempt(given.framing)
    except (ConvscopeError, RuntimeError):  # RuntimeError: torch's, for a size that the network does not take
        return attempt(resized(given.framing, USUAL))


# The check


def _batches(framing: Framing, channels: int, canvases: Sequence[tuple[int, int]], photos: Photos) -> list[Tensor]:
    """What an export is run on: made-up images in batches of different lengths, then photos one by one."""
    generator = np.random.default_rng(0)
    made = [
        torch.stack([_natural(generator, channels, *canvas) for _ in range(count)])
        for count, canvas in zip(PROBES, canvases, strict=True)
    ]
    return made + [framing.apply(photo, channels)[0][None] for photo in photos]


def _natural(generator: np.random.Generator, channels: int, height: int, width: int) -> Tensor:
    """Pixels "c h w" of noise with the spectrum of photos: amplitudes that fall with the frequency."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency = np.maximum(frequency, 1 / max(height, width))
    waves = np.fft.rfft2(generator.standard_normal((channels, height, width))) / frequency
    noise = np.fft.irfft2(waves, (height, width))
    noise -= noise.mean()
    pixels = np.clip(0.5 + 0.25 * noise / (noise.std() or 1), 0, 1)
    return torch.from_numpy(pixels.astype(np.float32))


def _finite(classifier: Classifier, batch: Images) -> Tensor:
    logits = classifier(batch)
    if not bool(logits.isfinite().all()):
        raise ConvscopeError(f"{classifier.name} gave NaN or infinity: check its weights, and mean and std")
    return logits.double()


def _compared(
    name: str, batches: Sequence[Tensor], wanted: Sequence[Tensor], run: Callable[[Tensor], Outputs]
) -> tuple[int, float]:
    """How many images, and the largest difference of their logits over the largest logit; too much of it is refused."""
    found = []
    for batch, logits in zip(batches, wanted, strict=True):
        own, shares = (output.double() for output in run(batch))
        if own.shape != logits.shape or shares.shape != logits.shape:
            raise ModelError(f"{name}: its export gives {tuple(own.shape)} for {tuple(logits.shape)}; it is not kept")
        if not torch.allclose(shares, probabilities(own), rtol=0, atol=TOLERANCE):
            raise ConvscopeError(f"{name}: the probabilities of its export are not those of its logits; it is not kept")
        found.append(own)
    exported, logits = torch.cat(found), torch.cat(list(wanted))
    scale = float(logits.abs().max()) or 1.0
    difference = float((exported - logits).abs().max()) / scale
    if not difference <= TOLERANCE:  # nor NaN
        amount = f"{difference:.1g} of its largest logit, more than {TOLERANCE:g}"
        raise ConvscopeError(f"{name}: its export differs by {amount}, and is not kept")
    # Logits far from zero that lie close together pass the above, and could still be in another order.
    lost = logits.max(1).values - logits.gather(1, exported.argmax(1, keepdim=True))[:, 0]
    if bool((lost > TIE * scale).any()):
        count = int((lost > TIE * scale).sum())
        raise ConvscopeError(f"{name}: its export finds another class in {count} of {len(lost)} images; it is not kept")
    return len(logits), difference


WRITERS = {"onnx": _write_onnx, "safetensors": _write_safetensors}
