"""Fetch emoji artwork from the npm registry and render it to 64x64 pictures with captions."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 64
HELD_OUT_SHARE = 0.10

PACKAGES = (
    "emoji-datasource-google@16.0.0",
    "@lobehub/fluent-emoji-3d@1.1.0",
    "@iconify-json/fluent-emoji-flat@1.2.6",
    "@iconify-json/noto-v1@1.2.5",
    "@iconify-json/fxemoji@1.2.2",
    "emoji-datasource-twitter@16.0.0",
    "@iconify-json/emojione@1.2.3",
    "emojibase-data@17.0.0",
)

# Style name in the caption -> where its pictures are, and how they are stored.
STYLES = {
    "noto": ("emoji-datasource-google@16.0.0", "img/google/64/*.png"),
    "fluent3d": ("@lobehub/fluent-emoji-3d@1.1.0", "assets/*.webp"),
    "fluent emoji flat": ("@iconify-json/fluent-emoji-flat@1.2.6", "icons.json"),
    "noto classic": ("@iconify-json/noto-v1@1.2.5", "icons.json"),
    "firefox": ("@iconify-json/fxemoji@1.2.2", "icons.json"),
    "twemoji": ("emoji-datasource-twitter@16.0.0", "img/twitter/64/*.png"),
    "emojione": ("@iconify-json/emojione@1.2.3", "icons.json"),
}

# Styles and subjects that the model is asked for most: they are seen more often in training.
MAIN_STYLES = ("noto", "fluent3d", "fluent emoji flat")
SHOWN_SUBJECTS = (
    "grinning face",
    "crying face",
    "cat face",
    "red apple",
    "pizza",
    "tulip",
    "mushroom",
    "watermelon",
)
GROUPS = {"smileys-emotion", "animals-nature", "food-drink"}


@dataclass(frozen=True)
class Pictures:
    """Rendered pictures: `images` uint8 [N, 64, 64, 3] on white, one caption each, `held_out` bool [N]."""

    images: np.ndarray
    captions: list[str]
    held_out: np.ndarray


def fetch(folder: Path) -> None:
    """Download and unpack every package that is not in `folder` yet (`npm pack`, nothing is installed or run)."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        target = folder / _folder_name(package)
        if target.exists():
            continue
        packed = subprocess.run(
            ["npm", "pack", "--silent", package], cwd=folder, check=True, capture_output=True, text=True
        )
        archive = folder / packed.stdout.strip().splitlines()[-1]
        unpacked = target.with_suffix(".part")
        shutil.rmtree(unpacked, ignore_errors=True)
        with tarfile.open(archive) as tar:
            tar.extractall(unpacked, filter="data")
        archive.unlink()
        unpacked.rename(target)


def render(folder: Path) -> Pictures:
    """Render every picture of the chosen groups in every style."""
    labels = _labels(folder)
    images, captions = [], []
    for style, (package, pattern) in STYLES.items():
        root = folder / _folder_name(package) / "package"
        source = _icons(root, labels) if pattern == "icons.json" else _files(root, pattern)
        seen = set()
        for code, picture in source:
            label = labels.get(code)
            if label is None or code in seen:
                continue
            seen.add(code)
            images.append(_on_white(picture))
            captions.append(f"{style} {label}")
    held_out = np.array([_is_held_out(caption) for caption in captions])
    return Pictures(np.stack(images), captions, held_out)


def load(folder: Path) -> Pictures:
    """Fetch and render once; later calls read `pictures.npz`."""
    cache = folder / "pictures.npz"
    if not cache.exists():
        fetch(folder)
        made = render(folder)
        np.savez(cache, images=made.images, captions=np.array(made.captions), held_out=made.held_out)
    with np.load(cache) as stored:
        return Pictures(stored["images"], [str(c) for c in stored["captions"]], stored["held_out"])


def sampling_weights(captions: list[str]) -> np.ndarray:
    """Give how often each picture is drawn in training, relative to a plain one."""
    weights = np.ones(len(captions))
    for index, caption in enumerate(captions):
        style = next(s for s in sorted(STYLES, key=len, reverse=True) if caption.startswith(s + " "))
        subject = caption[len(style) + 1 :]
        if style in MAIN_STYLES:
            weights[index] *= 2
        if subject in SHOWN_SUBJECTS:
            weights[index] *= 4 if style in MAIN_STYLES else 2
    return weights


def _labels(folder: Path) -> dict[str, str]:
    root = folder / _folder_name("emojibase-data@17.0.0") / "package"
    groups = json.loads((root / "meta/groups.json").read_text())["groups"]
    wanted = {int(number) for number, name in groups.items() if name in GROUPS}
    entries = json.loads((root / "en/data.json").read_text())
    return {_key(e["hexcode"]): e["label"].lower() for e in entries if e.get("group") in wanted}


def _files(root: Path, pattern: str) -> Iterator[tuple[str, Image.Image]]:
    for path in sorted(root.glob(pattern)):
        yield _key(path.stem), Image.open(path)


def _icons(root: Path, labels: dict[str, str]) -> Iterator[tuple[str, Image.Image]]:
    """Render one Iconify collection.

    It keeps SVG bodies by name; the table from code point to name is empty in some collections, whose names are then
    the labels with hyphens.
    """
    import resvg_py  # an extra of its own: only who fetches the pictures needs it

    collection = json.loads((root / "icons.json").read_text())
    names = json.loads((root / "chars.json").read_text())
    names = names or {code: label.replace(" ", "-").replace(":", "") for code, label in labels.items()}
    for code, name in sorted(names.items()):
        icon = collection["icons"].get(name)
        if icon is None:
            continue
        width, height = icon.get("width", collection["width"]), icon.get("height", collection["height"])
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}">{icon["body"]}</svg>'
        )
        data = resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE)
        yield _key(code), Image.open(BytesIO(bytes(data)))


def _on_white(picture: Image.Image) -> np.ndarray:
    picture = picture.convert("RGBA")
    picture.thumbnail((SIZE, SIZE), Image.Resampling.LANCZOS)
    page = Image.new("RGBA", (SIZE, SIZE), "white")
    page.alpha_composite(picture, ((SIZE - picture.width) // 2, (SIZE - picture.height) // 2))
    return np.asarray(page.convert("RGB"))


def _key(code: str) -> str:
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


def _is_held_out(caption: str) -> bool:
    if caption.endswith(SHOWN_SUBJECTS):
        return False
    digest = hashlib.sha256(caption.encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < HELD_OUT_SHARE


def _folder_name(package: str) -> str:
    return package.replace("/", "-").replace("@", "_")
