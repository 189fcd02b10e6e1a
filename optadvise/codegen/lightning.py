"""A LightningModule with `configure_optimizers`, and its Trainer."""

from __future__ import annotations

from optadvise.codegen import networks, optimizers, parts
from optadvise.codegen.parts import Lines
from optadvise.codegen.plan import Plan
from optadvise.codegen.values import literal

_PRECISION = {
    "fp32": '"32-true"',
    "bf16": '"bf16-true"',
    "amp-bf16": '"bf16-mixed"',
    "amp-fp16": '"16-mixed" if torch.cuda.is_available() else "32-true"',
}


def program(plan: Plan) -> str:
    """Return the text of a program that trains as it stands, and can be imported for its functions.

    Args:
        plan: What to write.
    """
    imports = ["import sys", "import lightning", *networks.adapter_imports(plan, language=parts.adapted(plan))]
    settings = parts.sizes(plan)
    if parts.several(plan):
        settings.append(f"accumulate = {plan.accumulate!r}  # passes that make one step")
    adapters = [networks.adapters(plan)] if parts.adapted(plan) else []
    module = _by_hand(plan) if parts.several(plan) else _automatic(plan)
    # A fused step takes the loss's scale off itself, after the clipping, so that beside a scaler it would clip wrongly.
    fused = plan.clip is None or plan.advice.situation.precision != "amp-fp16"
    configure = optimizers.configure(plan, fused=fused)
    blocks = [settings, *adapters, configure, optimizers.schedule(plan), module, _train(plan), *networks.stand_in(plan)]
    start = [
        "# A first run takes each batch of the stand-in once: leave max_epochs out.",
        "train(*stand_in(), checkpoint=sys.argv[1] if len(sys.argv) > 1 else None, max_epochs=1)",
    ]
    return parts.whole(plan, imports, blocks, start)


_ADAPTERS_ALONE = [
    "        self.strict_loading = False",
    "",
    "    def state_dict(self, *arguments, **others):",
    '        """Checkpoints hold what is trained, and not the frozen model."""',
    "        trained = {name for name, p in self.named_parameters() if p.requires_grad}",
    "        state = super().state_dict(*arguments, **others)",
    "        return {name: value for name, value in state.items() if name in trained}",
]


def _clips_itself(plan: Plan) -> bool:
    """Does Lightning refuse to clip? It does beside a fused step under autocast, where bf16 has no scale to mind."""
    fused = bool(plan.advice.fused)
    return plan.clip is not None and fused and plan.advice.situation.precision == "amp-bf16"


def _automatic(plan: Plan) -> Lines:
    clipping = [
        "",
        "    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):",
        "        # Lightning refuses to clip beside a fused step under autocast; bf16 has no loss scale to miss.",
        f"        torch.nn.utils.clip_grad_norm_(self.parameters(), {literal(plan.clip)})",
    ]
    return [
        "class Advised(lightning.LightningModule):",
        '    """The model, with the optimizer and the schedule that were advised."""',
        "",
        "    def __init__(self, model):",
        "        super().__init__()",
        "        self.model = model",
        *(_ADAPTERS_ALONE if parts.adapted(plan) else []),
        "",
        "    def configure_optimizers(self):",
        "        optimizer, scheduler = configure(self.model)",
        '        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}',
        "",
        "    def training_step(self, batch, index):",
        "        loss = loss_of(self.model, *batch)",
        '        self.log("loss", loss, prog_bar=True)',
        "        return loss",
        *(clipping if _clips_itself(plan) else []),
    ]


def _by_hand(plan: Plan) -> Lines:
    clip = [] if plan.clip is None else [
        f"        torch.nn.utils.clip_grad_norm_(self.parameters(), {literal(plan.clip)})"
    ]  # fmt: skip
    return [
        "class Advised(lightning.LightningModule):",
        '    """The model, with both optimizers; Lightning steps several by hand only."""',
        "",
        "    def __init__(self, model):",
        "        super().__init__()",
        "        self.model = model",
        "        self.automatic_optimization = False",
        *(_ADAPTERS_ALONE if parts.adapted(plan) else []),
        "",
        "    def configure_optimizers(self):",
        "        return configure(self.model)",
        "",
        "    def training_step(self, batch, index):",
        "        loss = loss_of(self.model, *batch)",
        "        self.manual_backward(loss / accumulate)",
        '        self.log("loss", loss, prog_bar=True)',
        "        if (index + 1) % accumulate and not self.trainer.is_last_batch:",
        "            return",
        *clip,
        "        with torch.autocast(self.device.type, enabled=False):  # Lightning has it around all of this",
        "            for optimizer, scheduler in zip(self.optimizers(), self.lr_schedulers()):",
        "                optimizer.step()",
        "                scheduler.step()  # after the optimizer, once a step",
        "                optimizer.zero_grad()",
    ]


def _train(plan: Plan) -> Lines:
    run = plan.advice.situation
    given = [
        "max_steps=2 * total_steps" if parts.several(plan) else "max_steps=total_steps",
        f"precision={_PRECISION[run.precision]}",
    ]
    if not parts.several(plan):
        given += (
            [f"gradient_clip_val={literal(plan.clip)}"] if plan.clip is not None and not _clips_itself(plan) else []
        )
        given += [f"accumulate_grad_batches={plan.accumulate!r}"] if plan.accumulate > 1 else []
    given += [f"devices={run.gpus!r}"] if run.gpus > 1 else []
    return [
        "def train(model, batches, checkpoint=None, **others):",
        '    """Train over batches; a checkpoint continues its run, at its batch where the loader keeps its place."""',
        "    trainer = lightning.Trainer(",
        *(["        # Lightning counts the steps of each of the two optimizers."] if parts.several(plan) else []),
        *(f"        {one}," for one in given),
        "        **others,",
        "    )",
        "    trainer.fit(Advised(model), batches, ckpt_path=checkpoint)",
        "    return trainer",
    ]
