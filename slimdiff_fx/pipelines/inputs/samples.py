"""What a pipeline is calibrated on: prompts, pictures, or what it brings along."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from diffusers import DiffusionPipeline

from passes.errors import UsageError
from slimdiff_fx.files.output_paths import expand
from slimdiff_fx.listener import SILENT, Listener
from slimdiff_fx.names import CALIBRATE_ON
from slimdiff_fx.pipelines.inputs.autoencoder import autoencoder
from slimdiff_fx.pipelines.inputs.cycled import Cycled
from slimdiff_fx.pipelines.inputs.images import CaptionedImage, check_pictures, read_images
from slimdiff_fx.pipelines.inputs.picture_inputs import needs_picture
from slimdiff_fx.pipelines.inputs.prompts import check_text, choose_samples, read_captions
from slimdiff_fx.pipelines.refuse_pipeline import refuse_pipeline, text_to_image_instead
from slimdiff_fx.pipelines.sampling import class_count, class_label, condition
from slimdiff_fx.pipelines.trajectory import Sample


@dataclass(frozen=True)
class SampleSet(Sequence[Sample]):
    """The calibration set, made sample by sample: however many there are, it takes memory for one round of them.

    Attributes:
        conditions: prompt or class label of each.
        images: picture of each; empty where there are none.
        noised: noise is added to the pictures.
    """

    conditions: Cycled[str]
    images: Cycled[CaptionedImage] | None = None
    noised: bool = True

    def __len__(self) -> int:
        """Give how many there are."""
        return len(self.conditions)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Sample, ...]: ...

    def __getitem__(self, index: int | slice) -> Sample | tuple[Sample, ...]:
        """Make one sample, or those of a slice."""
        places = range(len(self))[index]
        return tuple(map(self._sample, places)) if isinstance(places, range) else self._sample(places)

    def _sample(self, number: int) -> Sample:
        image = None if self.images is None else self.images[number]
        return Sample(number, self.conditions[number], image, self.noised)


def one_round(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Give the samples up to where their prompts and pictures begin to repeat."""
    return samples[: len(samples.conditions.one_round)] if isinstance(samples, SampleSet) else samples


def gather_samples(
    pipe: DiffusionPipeline,
    *,
    prompts: Iterable[str] | None,
    images: str | Path | None,
    samples: int,
    seed: int,
    listener: Listener = SILENT,
    folder: Path | None = None,
    calibrate_on: str | None = None,
) -> SampleSet:
    """Make the calibration set out of prompts, pictures, or what the pipeline brings along.

    Args:
        pipe: the pipeline.
        prompts: texts; class numbers or labels for a pipeline that is steered by these.
        images: folder of pictures, with captions where the pipeline is steered by any.
        samples: how many.
        seed: of the choice.
        listener: told if there are fewer prompts than samples.
        folder: the pipeline's own, which may hold captions.
        calibrate_on: "trajectory" follows the model's own denoising from pure noise, also where pictures are given:
            then their captions are the prompts, and a pipeline that takes pictures takes them; "pictures" adds noise
            to them. By default pictures, where there are.

    Raises:
        UsageError: there is nothing to calibrate on, what is given contradicts itself or the pipeline, or a picture
            can't be read.
    """
    refuse_pipeline(pipe)
    if calibrate_on not in (None, *CALIBRATE_ON):
        raise UsageError(f"calibrate on {calibrate_on!r}? there are {' and '.join(CALIBRATE_ON)}")
    if isinstance(prompts, str | bytes):
        raise UsageError("`prompts` is one text; give a list of prompts, such as [prompt]")
    if prompts is not None and images is not None:
        raise UsageError("prompts and images are given together; give one of them")
    if calibrate_on == "pictures" and images is None:
        raise UsageError('`calibrate_on="pictures"` needs pictures; give `images`')
    if images is None and needs_picture(pipe):
        raise UsageError(
            f"{type(pipe).__name__} needs pictures to calibrate on; give `images`{text_to_image_instead(pipe)}"
        )
    if images is not None:
        found = read_images(expand(images), captioned=condition(pipe) != "nothing")
        order, note = choose_samples([str(number) for number in range(len(found))], samples, seed)
        chosen = tuple(found[int(name)] for name in order.items)
        conditions = Cycled(tuple(picture.caption for picture in chosen), samples)
        note = note and note.replace("prompts", "pictures")
        made = SampleSet(conditions, Cycled(chosen, samples))
        if calibrate_on == "trajectory":
            made = SampleSet(conditions, made.images if needs_picture(pipe) else None, noised=False)
        else:
            autoencoder(pipe)  # refuses one that pictures can't be put through
        check_pictures([picture.file for picture in chosen])
    else:
        texts = _texts(pipe, prompts) if prompts is not None else _own_conditions(pipe, folder)
        conditions, note = choose_samples(texts, samples, seed)
        made = SampleSet(conditions)
    if condition(pipe) == "class_labels":
        for text in conditions.items:
            class_label(pipe, text)
    if note:
        listener.note(note)
    return made


def _texts(pipe: DiffusionPipeline, prompts: Iterable[Any]) -> Sequence[str]:
    """Take any iterable of texts; class labels may be numbers."""
    steered_by = condition(pipe)
    if steered_by == "nothing":
        raise UsageError(f"{type(pipe).__name__} takes no prompts; leave `prompts` out")
    texts: list[str] = []
    # A set's order is another one in each process.
    for number, prompt in enumerate(sorted(prompts) if isinstance(prompts, AbstractSet) else prompts):
        if steered_by == "class_labels" and isinstance(prompt, int) and not isinstance(prompt, bool):
            prompt = str(prompt)
        if not isinstance(prompt, str):
            raise UsageError(f"prompt {number} is {prompt!r}, a {type(prompt).__name__}; give strings")
        check_text(prompt, f"prompt {number}")
        texts.append(prompt)
    return texts


def _own_conditions(pipe: DiffusionPipeline, folder: Path | None) -> Sequence[str]:
    """Find what a pipeline can be calibrated on when nothing was given."""
    steered_by = condition(pipe)
    if steered_by == "nothing":
        return ("",)
    if steered_by == "class_labels":
        return [str(number) for number in range(class_count(pipe) or 0)]
    source = folder if folder is not None else Path(str(pipe.config.get("_name_or_path") or ""))
    return read_captions(source, "train")
