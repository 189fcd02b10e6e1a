"""Immutable records of `rules/recipes/`: published training runs."""

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from optadvise.core.cards import NOT_EMPTY, CardRecord
from optadvise.core.yaml_types import Amount, Internal, OptimizerId, SchedulerId, Word


class Recipe(CardRecord, frozen=True, kw_only=True, omit_defaults=True):
    """Published training run: what was trained, and how. What the source does not state is absent.

    The network is described by facts, and named as its authors would name it on the command line.
    """

    id: Word
    source: str  # repository and path, or publication and section
    url: Annotated[str, Meta(pattern=r"^(https://[A-Za-z0-9./_#?=&%:~,@+-]+)$", description="a plain https:// address")]
    year: int | None = None
    model: str  # kind of model
    architecture: str | None = None
    objective: str | None = None
    asked: Mapping[str, str] = {}  # `arch` or `model` as its authors would name the network
    task: Literal["pretrain", "finetune", "dpo", "grpo", "ppo"]
    method: Literal["full", "lora", "qlora"] = "full"
    lora_rank: int | None = None
    lora_alpha: float | None = None
    params: Amount | None = None  # of the whole model
    batch_size: Amount | None = None  # samples per optimizer step
    seq_len: Amount | None = None  # tokens per sample
    image_size: Amount | None = None  # height and width in pixels
    tokens: Amount | None = None  # of the whole run
    epochs: float | None = None
    samples: Amount | None = None  # of the training set
    steps: Amount | None = None  # optimizer steps of the whole run
    gpus: Amount | None = None
    gpu: str | None = None
    vram: str | None = None
    precision: Literal["fp32", "amp-bf16", "amp-fp16", "bf16"] | None = None
    sparse_gradients: bool = False
    optimizer: OptimizerId
    also_right: Annotated[tuple[OptimizerId, ...], NOT_EMPTY] = ()  # other optimizers that the source offers
    lr: float | None = None  # peak
    betas: tuple[float, ...] = ()
    momentum: float | None = None
    eps: float | None = None
    weight_decay: float | None = None
    schedule: SchedulerId | None = None
    also_schedules: Annotated[tuple[SchedulerId, ...], NOT_EMPTY] = ()
    warmup_steps: float | None = None
    warmup_fraction: float | None = None
    clip_norm: float | UnsetType | None = UNSET  # None: gradients are not clipped
    layer_decay: float | None = None  # `lr` is that of the top layer
    ema: float | None = None
    note: str = ""
    at: Internal = ""


class RecipeFile(CardRecord, frozen=True, kw_only=True):
    """A file of `recipes/`."""

    recipes: Annotated[tuple[Recipe, ...], Meta(min_length=1)]
