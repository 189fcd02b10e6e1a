"""The loop under Accelerate, on as many devices as `accelerate launch` starts it on."""

from __future__ import annotations

from optadvise.codegen import parts
from optadvise.codegen.parts import Lines, each
from optadvise.codegen.plan import Plan
from optadvise.codegen.values import literal

_MIXED = {"amp-bf16": "'bf16'", "amp-fp16": "'fp16' if torch.cuda.is_available() else 'no'"}


def program(plan: Plan) -> str:
    """Return the text of a program that trains as it stands, and can be imported for its functions.

    Args:
        plan: What to write.
    """
    imports = ["import sys", "from accelerate import Accelerator",
               *parts.adapter_imports(plan, language=parts.adapted(plan))]  # fmt: skip
    settings = [
        f"total_steps = {literal(plan.quantities['total_steps'])}",
        f"accumulate = {plan.accumulate!r}  # passes that make one step",
        "save_every = 1000  # steps",
        'save_to = "checkpoint"',
    ]
    adapters = [parts.adapters(plan)] if parts.adapted(plan) else []
    blocks = [settings, *adapters, parts.configure(plan), parts.schedule(plan), _train(plan), *parts.stand_in(plan)]
    start = ["train(*stand_in(), checkpoint=sys.argv[1] if len(sys.argv) > 1 else None)"]
    return parts.whole(plan, imports, blocks, start)


def _train(plan: Plan) -> Lines:
    s = "s" if parts.several(plan) else ""
    first = "schedulers[0]" if s else "scheduler"
    mixed = _MIXED.get(plan.advice.situation.precision, "'no'")
    prepare = "*optimizers, batches" if s else "optimizer, batches"
    taken = "model, *optimizers, batches" if s else "model, optimizer, batches"
    clip = [] if plan.clip is None else [
        "            if accelerator.sync_gradients:",
        f"                accelerator.clip_grad_norm_(model.parameters(), {literal(plan.clip)})",
    ]  # fmt: skip
    return [
        "def train(model, batches, checkpoint=None):",
        '    """Train over batches; the folder that was saved continues its run."""',
        f"    accelerator = Accelerator(mixed_precision={mixed}, gradient_accumulation_steps=accumulate)",
        f"    optimizer{s}, scheduler{s} = configure(model)",
        f"    {taken} = accelerator.prepare(model, {prepare})",
        "    # Not prepared: Accelerate would step it once for every process.",
        *each(plan, "accelerator.register_for_checkpointing(scheduler)"),
        "    done = 0",
        "    if checkpoint is not None:",
        f"        accelerator.load_state(checkpoint{', strict=False' if parts.quantised(plan) else ''})",
        f"        done = {first}.last_epoch",
        "        batches = accelerator.skip_first_batches(batches, done * accumulate)",
        "    model.train()",
        "    for x, y in batches:",
        "        with accelerator.accumulate(model):",
        "            loss = loss_of(model, x, y)",
        "            accelerator.backward(loss)",
        *clip,
        *each(plan, "optimizer.step()", 12),
        *each(plan, "optimizer.zero_grad()", 12),
        "        if not accelerator.sync_gradients:",
        "            continue",
        "        if done % 10 == 0:",
        f"            rate = {first}.get_last_lr()[0]",
        '            accelerator.print(f"step {done}: loss {loss.item():.4f}, lr {rate:.3g}")',
        "        if not accelerator.optimizer_step_was_skipped:",
        *each(plan, "scheduler.step()  # after the optimizer, once a step", 12),
        "        done += 1",
        "        if done % save_every == 0:",
        "            accelerator.save_state(save_to)",
        "        if done == total_steps:",
        "            break",
    ]
