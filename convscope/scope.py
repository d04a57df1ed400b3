"""Scope: what people hold. The verbs of the Python API over one classifier; nothing below knows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import ImageOps
from torch import nn
from torch.nn.parameter import is_lazy

from convscope.errors import ConvscopeError, UsageError
from convscope.images.frame import Framing, canvas_of
from convscope.images.given import Photos, Source, canvases, read_photos, several
from convscope.instrument.batches import AT_ONCE
from convscope.instrument.canvas import check_canvas
from convscope.instrument.layers import LayerRow, layer_table, resolve
from convscope.instrument.state import undisturbed
from convscope.instrument.target import STRONGEST, Spec, resolve_target
from convscope.methods import METHODS, configure
from convscope.methods.explanation import Explanation, View
from convscope.models.classes import Classes, as_classes
from convscope.models.classifier import Classifier, PerChannel, probabilities, unwrapped
from convscope.models.device import best_device
from convscope.models.prediction import Entry, Prediction
from convscope.models.registry import lasting_spec, load_classifier, parse, plain_loading
from convscope.optvis import Objective, Patterns, Recipe, Units
from convscope.optvis.dream import caricature, dream
from convscope.optvis.plan import BUDGET_MIB
from convscope.optvis.visualize import plan_patterns, visualize
from convscope.progress import shown
from convscope.types import Images

if TYPE_CHECKING:
    from convscope.atlas.atlas import Atlas
    from convscope.models.export import Checked as Exported
    from convscope.studies.result import Result
    from convscope.training.evaluate import Evaluation


class Scope:
    """A microscope over one classifier.

    ``module``: any ``nn.Module`` that gives logits, or a Classifier. ``classes``: names in the order of the outputs,
    or a file of them, or "imagenet". ``mean``, ``std``: the normalisation of its training on pixels in [0, 1].
    ``size``: its canvas, an int or (h, w); photos are resized to cover it and their centre is cut out (``crop`` is
    the share of the covered length that is kept; None squashes the whole photo). Without a size photos are taken as
    large as they are.

    The module is used as it is, on its device and in its dtype, and is left as it was. ``background``: what lies behind
    transparent photos; by default what a run was trained with, else white. ``progress`` shows long jobs.
    """

    def __init__(
        self,
        module: nn.Module | Classifier,
        classes: Sequence[str] | str | Path | Classes | None = None,
        *,
        mean: PerChannel | None = None,
        std: PerChannel | None = None,
        size: int | tuple[int, int] | None = None,
        crop: float | None = 1.0,
        interpolation: str = "bicubic",
        channels: int | None = None,
        background: str | None = None,
        progress: bool = True,
    ) -> None:
        if not isinstance(module, nn.Module):
            hint = f"; convscope.load({module!r}) loads a model by name" if isinstance(module, str) else ""
            hint = f"; make one, {module.__name__}()" if isinstance(module, type) else hint
            raise UsageError(f"a Scope is over a torch.nn.Module, not {type(module).__name__}{hint}")
        if isinstance(module, Classifier):
            if any(given is not None for given in (classes, mean, std, size, channels)):
                raise UsageError("a Classifier has its classes, mean, std, size and channels: give them to it instead")
            self.classifier = module
        else:
            framing = Framing(interpolation=interpolation)
            if size is not None:
                canvas = canvas_of(size)
                framing = Framing.covering(canvas, crop, interpolation)
            self.classifier = Classifier(
                unwrapped(module),
                as_classes(classes),
                mean=mean,
                std=std,
                framing=framing,
                channels=channels,
                background=background or "white",
            )
        self.background = background or self.classifier.background
        self.progress = progress
        self._origin: tuple[str, dict[str, Any]] | None = None  # the specifier and options that built it
        self.loading: dict[str, Any] | None = None  # all that ``load`` was asked for, in plain types

    @property
    def classes(self) -> Classes | None:
        return self.classifier.classes

    @property
    def run(self) -> Path | None:
        """The folder of the run that the model is of, if it is of one."""
        prefix, name, _ = parse(self._origin[0]) if self._origin is not None else ("", "", "")
        return Path(name).expanduser() if prefix == "run" else None

    def predict(self, photos: Photos) -> Prediction:
        """Class probabilities of photos: paths, folders, globs, PIL images, arrays, or tensors "b c h w" in [0, 1]."""
        images, views = self.images(photos)
        with undisturbed(self.classifier, grad=False):
            logits = torch.cat([self.classifier(part) for part in images.split(AT_ONCE)])
        assert self.classifier.classes is not None
        names = tuple(view.photo.name for view in views)
        found = probabilities(logits)
        if bool(found.isnan().any()):
            raise ConvscopeError(f"{self.classifier.name} gave NaN: check its weights, and mean and std")
        return Prediction(found, self.classifier.classes, names)

    def explain(
        self,
        photos: Photos,
        method: str | Any = "grad-cam",
        target: Spec = None,
        *,
        against: int | str | None = None,
        strongest: int = STRONGEST,
        **settings: Any,
    ) -> Explanation:
        """What a method finds in photos for a target; see ``convscope.methods.METHODS`` for the methods.

        ``target``: a class by name or index (the most probable one by default), a unit "layer:137", a neuron
        "layer:137@row,col", a function of the logits, a list with one class an image, or a layer alone for the units
        that are ``strongest`` in each image. ``against``: a second class, to ask why this one rather than that.
        ``settings``: the method's own, such as ``layer="layer3"`` or ``size=16``.
        """
        if isinstance(method, str):
            method = configure(method, settings)
        elif type(method) not in METHODS.values():
            raise UsageError(f"a method is a name such as 'grad-cam', or one made of METHODS: got {method!r}")
        elif settings:
            raise UsageError(f"settings {', '.join(settings)} go into the {type(method).__name__} that was passed")
        if target is not None and not method.traits.targeted:
            hint = "; name the layer, or units of it, as layer=" if hasattr(method, "layer") else ""
            raise UsageError(f"{method.name} explains no target{hint}")
        if type(method).traits.kind == "weights":
            return method.run(self.classifier)
        images, views = self.images(photos)
        with shown(self.progress):
            wanted, rows = resolve_target(self.classifier, images, target, against=against, strongest=strongest)
            found = method.run(self.classifier, images[rows], wanted)
        return replace(found, views=tuple(views[i] for i in rows) if views else ())

    def visualize(
        self,
        what: str | Objective,
        units: Units | None = None,
        *,
        recipe: str | Recipe = "fourier",
        size: int | tuple[int, int] | None = None,
        steps: int | None = None,
        seed: int = 0,
        diversity: int = 1,
        negative: bool = False,
        photos: Photos | None = None,
        budget: float = BUDGET_MIB,
    ) -> Patterns:
        """What units want to see: pictures by gradient ascent (Olah et al. 2017), one a unit, many at once.

        ``what``: a layer, units of it as ``features.10:0-63`` or in ``units``, a neuron ``layer3:12@7,4``, classes as
        ``@logits:tench,goldfish``, or an objective of ``convscope.optvis``. ``recipe``: fourier, maco or classic.
        ``size``: the canvas; by default the layer's receptive field and a margin, for classes the network's input.
        ``diversity``: so many pictures of each unit, as unlike as can be. ``negative``: what it wants least.
        ``photos``: compare with their strongest, and take the spectrum of MACO from them. ``budget``: MiB of memory.
        """
        with shown(self.progress):
            job = plan_patterns(
                self.classifier,
                what,
                units=units,
                recipe=recipe,
                size=size,
                steps=steps,
                seed=seed,
                copies=diversity,
                negative=negative,
                photos=self.images(photos)[0] if photos is not None else None,
                budget=budget,
            )
            return visualize(job)

    def dream(
        self,
        photo: Source,
        what: str | Objective = "@stage:-2",
        *,
        size: int | None = None,
        steps: int | None = None,
        seed: int = 0,
    ) -> Patterns:
        """A deep dream (Mordvintsev et al. 2015): the photo, changed towards what excites a layer, or a unit of it.

        ``size``: the whole photo with its longer side so long; by default what the network sees of it.
        """
        images, views = self.images(photo)
        if len(images) != 1:
            raise UsageError(f"a dream is of one photo, got {len(images)}")
        name = views[0].photo.name if views else "photo"
        if size is not None and views:
            whole = ImageOps.contain(views[0].photo.image, (size, size))
            images = Framing().apply(whole, self.classifier.channels)[0][None].to(self.classifier.device)
        with shown(self.progress):
            return dream(self.classifier, images, what, name=name, steps=steps, seed=seed)

    def caricature(
        self,
        photos: Photos,
        layer: str = "@stage:-2",
        *,
        steps: int | None = None,
        seed: int = 0,
        budget: float = BUDGET_MIB,
    ) -> Patterns:
        """What a layer sees in photos, amplified (Olah et al. 2018): pictures made anew from its activations alone.

        ``budget``: MiB of memory.
        """
        images, views = self.images(photos)
        names = tuple(view.photo.name for view in views) or tuple(f"image {i}" for i in range(len(images)))
        with shown(self.progress):
            return caricature(self.classifier, images, layer, names=names, steps=steps, seed=seed, budget=budget)

    def atlas(
        self,
        photos: str | Path,
        *,
        out: str | Path,
        layers: Sequence[str] | str = "@stages",
        top: int = 9,
        project: Sequence[str] = (),
        patterns: bool = False,
        workers: int | None = None,
        **options: Any,
    ) -> Atlas:
        """Every unit of layers over a data set in one pass: its strongest photos, statistics, neighbours (Zeiler &
        Fergus 2013, figure 2), in the folder ``out``; what was begun there is gone on with.

        ``photos``: what ``convscope.train`` takes, read by ``options`` such as ``columns`` or ``root``; labels are
        optional. ``layers``: addresses, globs or aliases. ``top``: photos kept of each unit. ``project``: methods whose
        projections are made now for all units, such as "deconvnet"; others are made when they are looked at.
        ``patterns``: also what each unit wants to see, by gradient ascent.
        """
        from convscope.atlas.making import Wish, make_atlas

        wish = Wish(Path(out), [layers] if isinstance(layers, str) else layers, top, project, patterns)
        with shown(self.progress):
            return make_atlas(self.classifier, photos, wish, self.loading, options, self.background, workers)

    def activations(self, photos: Photos, layer: str = "@last_conv") -> Explanation:
        """Feature maps of a layer, or of units of it: ``raw`` is "b k fh fw"."""
        return self.explain(photos, "activations", layer=layer)

    def filters(self, layer: str = "first") -> Explanation:
        """Weights of a convolution: ``raw`` is "n c kh kw"."""
        return configure("filters", {"layer": layer}).run(self.classifier)

    def evaluate(
        self,
        source: str | Path | None = None,
        *,
        unseen: bool = False,
        ten_crop: bool = False,
        workers: int | None = None,
        **options: Any,
    ) -> Evaluation:
        """Figures on labelled photos, matched to the classes by name; of a run, by default on its own test photos.

        ``source``: what ``convscope.train`` takes. ``unseen``: leave out photos that the run has learned from.
        ``ten_crop``: the mean prediction of corners and centre, also mirrored (Krizhevsky et al. 2012). ``options``:
        how the source is read, such as ``columns`` or ``root``.
        """
        from convscope.data.sources import SourceOptions
        from convscope.training.evaluate import evaluate_source

        more: dict[str, Any] = {
            "unseen": unseen,
            "ten_crop": ten_crop,
            "background": self.background,
            "workers": workers,
        }
        with shown(self.progress):
            return evaluate_source(self.classifier, source, self.run, SourceOptions.of(options), **more)

    def study(
        self,
        name: str,
        subject: Photos,
        *,
        label: int | str | None = None,
        sample: int | None = 100,
        out: str | Path | None = None,
        options: Mapping[str, Any] | None = None,
        workers: int | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> Result:
        """A controlled experiment, with its tables and figures; see ``convscope.studies.STUDIES`` for what there is.

        ``subject``: photos (``label``: the class of all; by default what a photo's folder is called, or the most
        probable; at most ``sample`` are drawn), or of a study of a data set what ``convscope.train`` takes, read by
        ``options``; what it trains lies in ``out``, to be gone on with. ``settings``: the study's own, as ``size=32``.
        """
        from convscope.studies.making import study

        how: dict[str, Any] = {"background": self.background, "model": self.loading, "seed": seed}
        how |= {"label": label, "sample": sample, "out": out, "options": options, "workers": workers}
        with shown(self.progress):
            return study(self.classifier, name, subject, settings, **how)

    def export(self, file: str | Path, *, check: Photos | None = None) -> Exported:
        """Write the model, its normalisation, framing and class names to ``file``: ``.onnx`` or ``.safetensors``.

        The file is run beside the classifier, also on the photos ``check``, and is not written if it gives something
        else.
        """
        from convscope.models.export import export

        file = Path(file)
        spec, options = self._origin or (None, {})
        photos = (p.image for p in read_photos(several(check), self.classifier.channels, self.background))
        format = file.suffix.lower().removeprefix(".")
        return export(self.classifier, file, format, spec=spec, options=options, check_images=photos)

    def layers(self, size: int | tuple[int, int] | None = None, *, functions: bool = False) -> list[LayerRow]:
        """Every layer that runs, in order: address, type, shape, parameters, receptive field and stride."""
        return layer_table(self.classifier.network, self.blank(size), through=self.classifier, functions=functions)

    def find_layers(self, pattern: str) -> list[str]:
        """The layers that an address, glob or alias such as ``@stages`` means."""
        found = resolve(self.classifier.network, pattern, self.blank(), through=self.classifier)
        return [str(address) for address in found]

    def blank(self, size: int | tuple[int, int] | None = None) -> Images:
        """A grey canvas, for asking about the network where no photo is at hand."""
        return self.classifier.blank(None if size is None else canvas_of(size))

    def images(self, photos: Photos) -> tuple[Images, tuple[View, ...]]:
        """The canvases of photos, and the photos they came from. A tensor is taken as it is, without a view."""
        own = self.classifier
        pixels, seen = canvases(photos, own.framing, own.channels, self.background)
        return pixels.to(own.device), tuple(View(photo, placement) for photo, placement in seen)

    def __repr__(self) -> str:
        names = f", {len(self.classes)} classes" if self.classes is not None else ""
        size = self.classifier.framing.size
        canvas = "any size" if size is None else f"{size[0]}x{size[1]}"
        return f"<Scope {self.classifier.name}: {self.classifier.channels} channels, {canvas}{names}>"


def load(
    spec: str,
    *,
    weights: str | Path | None = None,
    classes: Sequence[str] | str | Path | None = None,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    size: int | tuple[int, int] | None = None,
    background: str | None = None,
    progress: bool = True,
    device: str | torch.device | None = None,
    structure_only: bool = False,
    options: Mapping[str, Any] | None = None,
    **more_options: Any,
) -> Scope:
    """A Scope over the model that a specifier names: ``convscope:NAME``, ``timm:NAME``, ``torchvision:NAME@WEIGHTS``,
    ``hf-hub:ORG/NAME``, ``run:DIR``, ``file.py:Factory`` or ``pkg.mod:factory``; ``@random`` for an untrained one.

    ``weights``: a checkpoint file to load into it (tensors only). ``device``: where to put it; a GPU where there is
    one. ``background`` and ``progress``: Scope's.
    Further keywords go to the architecture. ``structure_only``: for its table of layers; no weights are fetched.
    """
    every = {**(options or {}), **more_options}
    asked: dict[str, Any] = {"weights": weights, "classes": classes, "mean": mean, "std": std, "size": size}
    classifier = load_classifier(spec, **asked, options=every, structure_only=structure_only)
    if background is not None:
        classifier.background = background
    found = Scope(classifier.to(device or best_device()), progress=progress)
    if size is not None and not structure_only and not any(map(is_lazy, classifier.parameters())):
        check_canvas(classifier, cure="if it was made for another size, give that")
    found.loading = plain_loading(spec, **asked, options=every)
    # runs/last may lead elsewhere later. Where a file of the user's lies is nobody's business: an export says it.
    found._origin = lasting_spec(spec) if parse(spec)[0] == "run" else spec, every
    return found


__all__ = ["METHODS", "Entry", "Prediction", "Scope", "load"]
