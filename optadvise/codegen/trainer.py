"""TrainingArguments and a Trainer of transformers."""

from __future__ import annotations

from typing import Any

from optadvise.codegen import networks, optimizers, parts
from optadvise.codegen.parts import Lines
from optadvise.codegen.plan import Plan
from optadvise.codegen.values import arguments, call, comment, literal, path, without_gpu

_PRECISION = {"amp-bf16": "bf16=True", "amp-fp16": "fp16=torch.cuda.is_available()"}


def program(plan: Plan) -> str:
    """Return the text of a program that trains as it stands, and can be imported for its functions.

    Args:
        plan: What to write.
    """
    names = ("Trainer", "TrainerCallback", "TrainingArguments")
    imports = ["import sys", *networks.adapter_imports(plan, language=True, further=names)]
    settings = [f"total_steps = {literal(plan.quantities['total_steps'])}"]
    adapters = [networks.adapters(plan)] if parts.adapted(plan) else []
    schedule = [] if plan.exact else [optimizers.schedule(plan)]
    blocks = [settings, *adapters, _arguments(plan), *schedule, _trainer(plan), _train(plan),
              networks.language_model(plan), *_stand_in(plan)]  # fmt: skip
    start = [
        "model, rows = stand_in()",
        "# FirstSteps ends this first run early: leave it out.",
        "train(model, rows, checkpoint=sys.argv[1] if len(sys.argv) > 1 else None, callbacks=[FirstSteps()])",
    ]
    return parts.whole(plan, imports, blocks, start)


def _arguments(plan: Plan) -> Lines:
    """Return the function that makes TrainingArguments: only what was advised, and what Trainer would do otherwise."""
    given = [*arguments(settings(plan)), "max_steps=total_steps"]
    run = plan.advice.situation
    given.append(
        f"max_grad_norm={literal(plan.clip or 0.0)}" + ("" if plan.clip else "  # 0 is no clipping; Trainer clips at 1")
    )
    given += [_PRECISION[run.precision]] if run.precision in _PRECISION else []
    if run.precision == "amp-bf16":
        given.append("use_cpu=not torch.cuda.is_available()  # it takes bf16 on a CPU only if it is told of it")
    if plan.micro_batch is not None:
        given.append(f"per_device_train_batch_size={plan.micro_batch!r}")
    given += [f"gradient_accumulation_steps={plan.accumulate!r}"] if plan.accumulate > 1 else []
    given += ["gradient_checkpointing=True"] if run.checkpointing != "none" else []
    if plan.exact and plan.own is not None:
        given += arguments({"lr_scheduler_type": plan.own.name, **plan.own.settings})
    lines = [
        "def arguments(folder, **others):",
        '    """Return the arguments that were advised; others are yours."""',
        "    given = dict(",
        *(f"        {_comma(one)}" for one in given),
        '        report_to="none",',
        "    )",
    ]
    return [*lines, "    return TrainingArguments(output_dir=folder, **{**given, **others})"]


def _comma(given: str) -> str:
    value, mark, why = given.partition("  # ")
    return f"{value},{mark}{why}"


def settings(plan: Plan) -> dict[str, Any]:
    """Return the optimizer's numbers as TrainingArguments names them, with `optim` where a name builds it.

    Args:
        plan: What to write.
    """
    if plan.named is None:
        return plan.called(("lr", "weight_decay"))
    return {"optim": plan.named.name, **plan.called(plan.named.takes)}


def _trainer(plan: Plan) -> Lines:
    words = "Trainer as it was advised: which weights decay" + ("" if plan.exact else ", and the rate at every step")
    lines = [
        "class AdvisedTrainer(Trainer):",
        f'    """{words}."""',
        "",
        "    def get_decay_parameter_names(self, model):",
        "        # Matrices alone; Trainer goes by names, and decays norms that are called otherwise.",
        "        return [name for name, p in model.named_parameters() if p.ndim >= 2]",
    ]
    if plan.exact:
        return lines
    lines += ["", "    def create_scheduler(self, num_training_steps, optimizer=None):"]
    if plan.own is not None:
        differs = f"; {plan.own.differs}" if plan.own.differs else ""
        lines += [
            *comment(f"Trainer's own that comes nearest{differs}:", 8),
            f"        #     {', '.join(arguments({'lr_scheduler_type': plan.own.name, **plan.own.settings}))}",
        ]
    return [
        *lines,
        "        if self.lr_scheduler is None:",
        "            self.lr_scheduler = schedule(self.optimizer if optimizer is None else optimizer)",
        "        return self.lr_scheduler",
    ]  # fmt: skip


def _train(plan: Plan) -> Lines:
    advice = plan.advice
    lines = [
        'def train(model, rows, checkpoint=None, folder="trained", callbacks=(), **others):',
        '    """Train over rows of input_ids and labels; a checkpoint\'s folder continues its run."""',
        *(["    model = model.bfloat16()"] if parts.halves(plan) else []),
    ]
    given = ["model=model", "args=arguments(folder, **others)", "train_dataset=rows", "callbacks=list(callbacks)"]
    if plan.named is None:
        numbers = arguments({**advice.kwargs, **advice.fused}) + without_gpu(advice.implementation.on_cpu)
        lines += ["    # Trainer has no name that builds it with these numbers.",
                  *call("dict", numbers, 4, "numbers = ")]  # fmt: skip
        given.append(f"optimizer_cls_and_kwargs=({path(advice.implementation.path)}, numbers)")
    return [
        *lines,
        *call("AdvisedTrainer", given, 4, "trainer = "),
        "    trainer.train(resume_from_checkpoint=checkpoint)",
        "    return trainer",
    ]


def _stand_in(plan: Plan) -> list[Lines]:
    rows = 8 if plan.micro_batch is None else plan.micro_batch
    passes = parts.first_steps(plan) * plan.accumulate
    return [
        [
            "def stand_in():",
            '    """The tiny model and rows that count upwards, which it can learn."""',
            "    model = tiny_model()",
            f"    tokens = (torch.randint(256, ({min(rows * passes, 1024)}, 1)) + torch.arange(32)) % 256",
            '    return model, [{"input_ids": row, "labels": row} for row in tokens]',
        ],
        [
            "class FirstSteps(TrainerCallback):",
            '    """Ends a run after a few steps."""',
            "",
            "    def on_step_end(self, args, state, control, **others):",
            f"        control.should_training_stop = state.global_step >= {parts.first_steps(plan)}",
        ],
    ]
