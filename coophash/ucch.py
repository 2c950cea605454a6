"""UCCH (Hu et al., TPAMI 2023): binary codes for image-text pairs, learned without labels.
One step is `ucch_step`, below.

    outputs    h^x = f^x(x),  h^y = f^y(y),  of length 1;  codes b = sgn(h)                Eq. 1
    bank       one row v_i a pair, shared by both modalities; keys k_i = sgn(v_i)
    contrast   L_c: each h against its own key and K others, by softmax                    Eq. 3, 4
    ranking    L_r: each h^x against all h^y of the batch, and the reverse                 Eq. 8, 14
    total      beta L_c + (1 - beta) L_r                                                   Eq. 15
    bank       v_i <- delta v_i + (1 - delta) (h_i^x + h_i^y) / 2                          Eq. 5

The keys are bits, and no gradient enters the bank: the networks are trained against binary codes
themselves, with no relaxation. Where the authors' code does more than the paper (a warm-up, clipped
gradients, a normalised bank), `UCCHConfig` has an option; presets say which goes with which.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coophash._options import check_integer
from coophash._pair_input import check_features, check_seed, features_of
from coophash.codes import pack
from coophash.coop_terms import random_source
from coophash.data.pairs import PairSet
from coophash.features import describe_source, make_source
from coophash.hasher import evaluating, seeded, seeded_weights
from coophash.kernels import bank_contrast, bank_update, ranking_loss
from coophash.ucch_backbone import TRAINED, PixelEncoder, pixels_of, rebuild_backbone
from coophash.ucch_config import PRESETS, UCCHConfig

__all__ = ["UCCH", "MemoryBank", "PairEncoder", "UCCHConfig", "ucch_step"]


class PairEncoder(nn.Module):
    """f^x or f^y: linear layers with ReLU between, tanh, then length 1.

    Args:
        inputs: width of the features.
        hidden: widths of the hidden layers.
        bits: L.
        dropout: share of hidden units dropped in training.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, inputs: int, hidden: tuple[int, ...], bits: int, dropout: float) -> None:
        super().__init__()
        widths = (inputs, *hidden, bits)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.dropout = dropout
        # What `UCCHConfig.standardize` learns; left at 0 and 1 it changes nothing.
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("deviation", torch.ones(inputs))

    def forward(self, features: Tensor) -> Tensor:
        """features: (B, inputs), standardised -> (B, bits), rows of length 1."""
        x = features
        for layer in self.layers[:-1]:
            x = F.dropout(F.relu(layer(x)), self.dropout, self.training)
        return F.normalize(torch.tanh(self.layers[-1](x)), dim=1)


class MemoryBank(nn.Module):
    """One row of L numbers for each training pair, and beside it the packed signs: the keys.

    Args:
        items: n, training pairs.
        bits: L.
        seed: of the random signs that it starts with.

    Attributes:
        values: v, (n, L) float32.
        codes: sgn(v), packed: (n, ceil(L / 8)) uint8. Always those of `values`: `bank_update`
            changes both.
    """

    values: Tensor
    codes: Tensor

    def __init__(self, items: int, bits: int, seed: int = 0) -> None:
        super().__init__()
        check_integer("items", items, 1)
        source = torch.Generator().manual_seed(check_seed(seed))
        signs = torch.randint(2, (items, bits), generator=source) * 2 - 1
        self.register_buffer("values", signs / bits**0.5)
        self.register_buffer("codes", pack(self.values))

    def __len__(self) -> int:
        return len(self.values)


class UCCH(nn.Module):
    """Unsupervised contrastive cross-modal hashing.

    Args:
        bits, image_dim, text_dim: see `UCCHConfig`.
        preset: "paper", "mirflickr", "nuswide", "mscoco" or "ours", see `coophash.ucch_config`.
        seed: of the initial weights.
        sources: what makes features of raw images and texts, {"image": ..., "text": ...} as
            `coophash.features.describe_source` gives them; None for features alone.
        options: of `UCCHConfig`; they win over the preset.

    Attributes:
        config: the settings.
        image_encoder, text_encoder: f^x and f^y, with the statistics that standardise features.
        image_source, text_source: callables that make features of image files and of texts, see
            `coophash.features`; None without. May be set to any callable, which is not saved.
        trained_backbone: what `coophash.ucch_backbone.tune_backbone` put into `image_encoder`.

    Raises:
        TypeError, ValueError: an unknown preset or option, or one of the wrong type or range.
    """

    def __init__(
        self,
        bits: int,
        image_dim: int,
        text_dim: int,
        preset: str = "mirflickr",
        seed: int = 0,
        sources: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(preset, str) or preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
        known = {field.name for field in dataclasses.fields(UCCHConfig)}
        if unknown := sorted(set(options) - known):
            raise TypeError(f"unknown option {unknown[0]!r}; UCCH has {sorted(known)}")
        super().__init__()
        c = UCCHConfig(bits, image_dim, text_dim, **{**PRESETS[preset], **options})
        self.config, self.preset = c, preset
        if not isinstance(sources, (Mapping, NoneType)):
            raise TypeError(f"sources must be a dict with image and text, got {sources!r}")
        given = sources or {}
        image = given.get("image")
        trained = image if isinstance(image, Mapping) and image.get("kind") == TRAINED else None
        self.image_source = None if trained else make_source(image)
        self.text_source = make_source(given.get("text"))
        self.trained_backbone: dict[str, Any] | None = None
        self.image_encoder: PairEncoder | PixelEncoder
        with seeded_weights(check_seed(seed)):
            self.image_encoder = PairEncoder(c.image_dim, c.image_hidden, c.bits, c.dropout)
            self.text_encoder = PairEncoder(c.text_dim, c.text_hidden, c.bits, c.dropout)
        if trained:
            rebuild_backbone(self, trained)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.image_encoder.mean.device

    @property
    def sources(self) -> dict[str, Any]:
        """What is saved of the sources."""
        image = self.trained_backbone or describe_source(self.image_source)
        return {"image": image, "text": describe_source(self.text_source)}

    def encode_image(self, images: Any, batch_size: int = 1024) -> Any:
        """Packed codes of images.

        Args:
            images: a `PairSet`; features (N, image_dim), NumPy or torch; or, with an
                `image_source`, a list of image files or pixels, uint8 (N, C, H, W).
            batch_size: rows at a time.

        Returns:
            uint8, (N, ceil(bits / 8)); torch for torch input, else NumPy.

        Raises:
            TypeError, ValueError: features of another width or dtype, or with NaN.
        """
        return _packed(images, self.image_outputs(images, batch_size))

    def encode_text(self, texts: Any, batch_size: int = 1024) -> Any:
        """Packed codes of texts: a `PairSet`, features (N, text_dim) or a list of texts.

        As `encode_image`; a list of texts needs a `text_source`.
        """
        return _packed(texts, self.text_outputs(texts, batch_size))

    def image_outputs(self, images: Any, batch_size: int = 1024) -> Tensor:
        """h^x before the sign: (N, bits) float32, of length 1. Arguments as `encode_image`."""
        if isinstance(self.image_encoder, PixelEncoder):
            pixels = pixels_of(images, self.image_encoder)
            return self._outputs(self.image_encoder, pixels, 0, "images", min(batch_size, 64))
        values = features_of(images, self.image_source, "image")
        width = self.config.image_dim
        return self._outputs(self.image_encoder, values, width, "images", batch_size)

    def text_outputs(self, texts: Any, batch_size: int = 1024) -> Tensor:
        """h^y before the sign: (N, bits) float32, of length 1. Arguments as `encode_text`."""
        values = features_of(texts, self.text_source, "text")
        width = self.config.text_dim
        return self._outputs(self.text_encoder, values, width, "texts", batch_size)

    @torch.no_grad()
    def _outputs(
        self,
        encoder: PairEncoder | PixelEncoder,
        values: Any,
        width: int,
        name: str,
        batch_size: int,
    ) -> Tensor:
        check_integer("batch_size", batch_size, 1)
        if isinstance(encoder, PairEncoder):
            values = check_features(values, width, name)
        with evaluating(encoder):
            like = encoder.mean
            parts = [
                encoder(self.prepared(encoder, part.to(like))).float()
                for part in torch.split(torch.as_tensor(values), batch_size)
            ]
        return torch.cat(parts) if parts else torch.empty(0, self.config.bits)

    def prepared(self, encoder: PairEncoder | PixelEncoder, features: Tensor) -> Tensor:
        """Features as the encoder takes them: (B, D) -> (B, D). Pixels stay as they are."""
        c = self.config
        if isinstance(encoder, PixelEncoder):
            return features
        if c.feature_power != 1:
            features = features.sign() * features.abs() ** c.feature_power
        if not c.standardize:
            return features
        scaled = (features - encoder.mean) / encoder.deviation
        return (
            scaled if c.clip_features is None else scaled.clamp(-c.clip_features, c.clip_features)
        )

    def learn_statistics(self, pairs: PairSet) -> None:
        """Take mean and deviation of every feature from training pairs, for `standardize`.

        A feature that does not vary is only centred.
        """
        for encoder, values in (
            (self.image_encoder, pairs.images), (self.text_encoder, pairs.texts)
        ):  # fmt: skip
            if isinstance(encoder, PixelEncoder):
                continue
            exact = torch.as_tensor(values).double()
            exact = exact.sign() * exact.abs() ** self.config.feature_power
            deviation = exact.std(0, correction=0)
            deviation[deviation <= 1e-6 * exact.abs().amax(0).clamp_min(1e-30)] = 1.0
            encoder.mean.copy_(exact.mean(0))
            encoder.deviation.copy_(deviation)

    def save(self, folder: str | Path) -> None:
        """Write `model.safetensors` and `config.json` into the folder, made if it is missing."""
        from coophash.checkpoints import save_model

        save_model(self, folder)


def _packed(given: Any, outputs: Tensor) -> Any:
    return pack(outputs if isinstance(given, Tensor) else outputs.cpu().numpy())


def ucch_step(
    model: UCCH,
    bank: MemoryBank,
    rows: Tensor,
    images: Tensor,
    texts: Tensor,
    optimizer: torch.optim.Optimizer,
    seed: int,
    update: int,
    warm_up: bool = False,
) -> dict[str, Tensor]:
    """One update of both networks and the bank on a mini-batch (Algorithm 1).

    All randomness is a function of (seed, update), so a resumed run repeats an uninterrupted one.

    Args:
        rows: (B,) int64, the bank rows of the pairs.
        images, texts: (B, image_dim) and (B, text_dim) float, as `UCCH.prepared` gives them; with
            a backbone that is trained pixels, uint8 (B, C, H, W).
        update: number of this update, from 0.
        warm_up: the keys are the signs of the batch itself, and its bank rows are overwritten.

    Returns:
        What to watch, as 0-d tensors: the loss, its two parts, and the mean <h^x, h^y> of the
        pairs and of all others in the batch.
    """
    c = model.config
    source = random_source(images.device, seed, update)
    if isinstance(model.image_encoder, PixelEncoder):
        model.image_encoder.freeze(warm_up)
    with seeded(source.initial_seed(), images.device):  # dropout and crops
        hx = model.image_encoder(_disturbed(images, c.image_noise, c.image_dropout, source))
        hy = model.text_encoder(_disturbed(texts, c.text_noise, c.text_dropout, source))
    both = torch.stack([hx, hy])  # the two modalities share keys and negatives
    if warm_up:  # every other pair of the batch is a negative, once
        own = torch.arange(len(rows), device=rows.device)
        losses = bank_contrast(both, pack((hx + hy).detach()), own, temperature=c.temperature)
    else:
        losses = bank_contrast(
            both, bank.codes, rows, c.negatives, temperature=c.temperature,
            exclude_positive=c.exclude_positive, seed=seed, step=update,
        )  # fmt: skip
    contrast = losses.mean(1).sum()  # Eq. 3 with means over the batch, as the code has them

    similarity = hx @ hy.T  # M^xy, (B, B); its transpose is M^yx
    if c.ranking == "crl":
        ranking = ranking_loss(
            similarity, margin=c.margin, shift=c.shift, kappa=c.ranking_temperature
        )
    else:
        ranking = max_margin_loss(similarity, c.margin)

    loss = c.contrast_weight * contrast + (1 - c.contrast_weight) * ranking  # Eq. 15
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if c.gradient_clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), c.gradient_clip)
    optimizer.step()

    bank_update(
        bank.values, bank.codes, rows, both.detach(),
        momentum=0.0 if warm_up else c.bank_momentum, normalize=c.normalize_bank,
    )  # fmt: skip
    similarity, own = similarity.detach(), similarity.detach().diagonal().mean()
    others = (similarity.mean() * len(rows) - own) / max(len(rows) - 1, 1)
    return {
        "loss": loss.detach(), "contrast": contrast.detach(), "ranking": ranking.detach(),
        "similarity_own": own, "similarity_others": others,
    }  # fmt: skip


def _disturbed(features: Tensor, noise: float, dropout: float, source: torch.Generator) -> Tensor:
    """Features with the noise and the holes that the options ask for."""
    if noise:
        drawn = torch.randn(features.shape, generator=source, device=features.device)
        level = torch.rand(len(features), 1, generator=source, device=features.device)
        features = features + noise * level * drawn
    if dropout:
        drawn = torch.rand(features.shape, generator=source, device=features.device)
        features = features * (drawn >= dropout)
    return features


def max_margin_loss(similarity: Tensor, margin: float) -> Tensor:
    """L'_r (Eq. 6, 7): hinge over all negatives of the batch, both directions, divided by n^2."""
    own = similarity.diagonal()
    other = ~torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    hinge = F.relu(margin + similarity - own[:, None]) + F.relu(margin + similarity - own[None, :])
    return (hinge * other).sum() / len(similarity) ** 2
