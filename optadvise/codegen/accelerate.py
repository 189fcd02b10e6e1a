"""The loop under Accelerate, on as many devices as `accelerate launch` starts it on."""

from __future__ import annotations

from optadvise.codegen import networks, optimizers, parts
from optadvise.codegen.parts import Lines, each
from optadvise.codegen.plan import Plan
from optadvise.codegen.values import call, literal

_MIXED = {"amp-bf16": '"bf16"', "amp-fp16": '"fp16" if torch.cuda.is_available() else "no"'}


def program(plan: Plan) -> str:
    """Return the text of a program that trains as it stands, and can be imported for its functions.

    Args:
        plan: What to write.
    """
    imports = ["import sys", "from accelerate import Accelerator",
               *networks.adapter_imports(plan, language=parts.adapted(plan))]  # fmt: skip
    settings = [
        *parts.sizes(plan),
        f"accumulate = {plan.accumulate!r}  # passes that make one step",
        "save_every = 1000  # steps; the last is saved too",
        'save_to = "checkpoint"',
    ]
    adapters = [networks.adapters(plan)] if parts.adapted(plan) else []
    blocks = [settings, *adapters, optimizers.configure(plan), optimizers.schedule(plan), _progress(), _train(plan),
              *([parts.placed()] if parts.halves(plan) else []), *networks.stand_in(plan)]  # fmt: skip
    start = [
        f"# A first run ends after {parts.first_steps(plan)} steps: leave `steps` out.",
        f"train(*stand_in(), checkpoint=sys.argv[1] if len(sys.argv) > 1 else None, steps={parts.first_steps(plan)})",
    ]
    return parts.whole(plan, imports, blocks, start)


def _progress() -> Lines:
    return [
        "class Progress:",
        '    """Where a run is: steps that are done, and batches of this epoch that were seen."""',
        "",
        "    def __init__(self):",
        "        self.step, self.seen = 0, 0",
        "",
        "    def state_dict(self):",
        '        return {"step": self.step, "seen": self.seen}',
        "",
        "    def load_state_dict(self, state):",
        '        self.step, self.seen = state["step"], state["seen"]',
    ]


def _train(plan: Plan) -> Lines:
    s = "s" if parts.several(plan) else ""
    first = "schedulers[0]" if s else "scheduler"
    mixed = _MIXED.get(plan.advice.situation.precision, '"no"')
    prepare = "*optimizers, batches" if s else "optimizer, batches"
    taken = "model, *optimizers, batches" if s else "model, optimizer, batches"
    strict = ", strict=False" if parts.quantised(plan) else ""
    return [
        "def train(model, batches, checkpoint=None, steps=total_steps):",
        '    """Train over batches, from the first again when they end; the folder that was saved continues its run.',
        "",
        "    What is left of an epoch is the same batches where the loader does not shuffle.",
        '    """',
        *call("Accelerator", [f"mixed_precision={mixed}", "gradient_accumulation_steps=accumulate"], 4,
              "accelerator = "),
        *(["    model = model.to(torch.bfloat16)"] if parts.halves(plan) else []),
        f"    optimizer{s}, scheduler{s} = configure(model)",
        f"    {taken} = accelerator.prepare(model, {prepare})",
        "    # Not prepared: Accelerate would step it once for every process.",
        *each(plan, "accelerator.register_for_checkpointing(scheduler)"),
        "    progress = Progress()",
        "    accelerator.register_for_checkpointing(progress)",
        "    if checkpoint is not None:",
        f"        accelerator.load_state(checkpoint{strict})",
        "    model.train()",
        "    while progress.step < steps:",
        "        left = accelerator.skip_first_batches(batches, progress.seen) if progress.seen else batches",
        "        for x, y in left:",
        "            progress.seen += 1",
        *_pass(plan),
        "            if not accelerator.sync_gradients:",
        "                continue",
        "            if progress.step % 10 == 0:",
        f"                rate = {first}.get_last_lr()[0]",
        '                accelerator.print(f"step {progress.step}: loss {loss.item():.4f}, lr {rate:.3g}")',
        "            if not accelerator.optimizer_step_was_skipped:",
        *each(plan, "scheduler.step()  # after the optimizer, once a step", 16),
        "            progress.step += 1",
        "            if progress.step % save_every == 0 or progress.step == steps:",
        "                accelerator.save_state(save_to)",
        "            if progress.step == steps:",
        "                return",
        "        if not progress.seen:",
        '            raise RuntimeError(f"there are no more batches, after {progress.step} of {steps} steps")',
        "        progress.seen = 0",
    ]  # fmt: skip


def _pass(plan: Plan) -> Lines:
    """Return one pass, with a step where it is the last of its step."""
    clip = [] if plan.clip is None else [
        "                if accelerator.sync_gradients:",
        f"                    accelerator.clip_grad_norm_(model.parameters(), {literal(plan.clip)})",
    ]  # fmt: skip
    return [
        "            with accelerator.accumulate(model):",
        f"                loss = loss_of(model, {'placed(x, x.device)' if parts.halves(plan) else 'x'}, y)",
        "                accelerator.backward(loss)",
        *clip,
        *each(plan, "optimizer.step()", 16),
        *each(plan, "optimizer.zero_grad()", 16),
    ]
