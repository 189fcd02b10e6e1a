"""A LoRA fine-tune: a small model that knows Python's source learns the HTML that pydoc writes.

The adapters, the arguments and the Trainer are what this printed; the network and the data are ours. The base is trained
here first, so that nothing is downloaded; with a model from the hub, `pretrained` is one line.

    optadvise recommend --model transformer --params 1M --task finetune --method lora --steps 200 --precision fp32 --format hf
"""

# AdamW under warmup-cosine, by optadvise 0.1.0 (rules ed434d2c645d).
# CON030: adapters are about one percent of the weights, so shrinking their state saves nothing that matters
# OPT021: adapters' state is about a percent of the model, so the exact and fastest AdamW costs nothing
# SCH010: attention is easily destabilised early, and a cosine after the ramp is the standard decay
# Needs: pip install peft torch transformers

import os
import pathlib
import pydoc
import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

total_steps = 200


def adapt(model):
    """Freeze the model and add the adapters that are trained."""
    # An alpha equal to the rank leaves the adapters' update as it is.
    config = LoraConfig(r=16, lora_alpha=16, target_modules="all-linear")
    return get_peft_model(model, config)


def arguments(folder, **others):
    """Return the arguments that were advised; others are yours."""
    given = dict(
        optim="adamw_torch_fused",
        learning_rate=0.0004,
        adam_beta1=0.9,
        adam_beta2=0.999,
        adam_epsilon=1e-08,
        weight_decay=0.01,
        max_steps=total_steps,
        max_grad_norm=1.0,
        report_to="none",
    )
    return TrainingArguments(output_dir=folder, **{**given, **others})


def schedule(optimizer):
    """Return the schedule, which counts optimizer steps and not epochs."""
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, end_factor=1.0, total_iters=6)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=194, eta_min=4e-05)
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, cosine], milestones=[6])


class AdvisedTrainer(Trainer):
    """Trainer as it was advised: which weights decay, and the rate at every step."""

    def get_decay_parameter_names(self, model):
        # Matrices alone; Trainer goes by names, and decays norms that are called otherwise.
        return [name for name, p in model.named_parameters() if p.ndim >= 2]

    def create_scheduler(self, num_training_steps, optimizer=None):
        # Trainer's own that comes nearest; its ramp starts at 0:
        #     lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs={'min_lr': 4e-05}, warmup_steps=6
        if self.lr_scheduler is None:
            self.lr_scheduler = schedule(self.optimizer if optimizer is None else optimizer)
        return self.lr_scheduler


def train(model, rows, checkpoint=None, folder="trained", callbacks=(), **others):
    """Train over rows of input_ids and labels; a checkpoint's folder continues its run."""
    trainer = AdvisedTrainer(
        model=model,
        args=arguments(folder, **others),
        train_dataset=rows,
        callbacks=list(callbacks),
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    return trainer


def rows(text, count, length=128):
    """Return random stretches of a text as rows for the Trainer."""
    whole = torch.tensor(list(text), dtype=torch.long)
    starts = torch.randint(len(whole) - length, (count,)).tolist()
    return [{"input_ids": whole[s : s + length], "labels": whole[s : s + length]} for s in starts]


def python_source():
    """Return some of the standard library as bytes."""
    return b"".join(file.read_bytes() for file in sorted(pathlib.Path(os.__file__).parent.glob("*.py")))[: 2**20]


def documentation():
    """Return pydoc's pages of some modules as bytes: what is learnt, and what is held out."""
    pages = [
        pydoc.HTMLDoc().document(__import__(name)).encode() for name in ("json", "textwrap", "heapq", "csv", "shlex")
    ]
    return b"".join(pages[:-1]), pages[-1]


def pretrained(steps):
    """Return a small language model that has read Python's source."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    seen = rows(python_source(), steps * 8)
    for step in range(steps):
        batch = torch.stack([row["input_ids"] for row in seen[step * 8 : step * 8 + 8]])
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@torch.no_grad()
def loss_of(model, text):
    """Return the loss on a text."""
    batch = torch.tensor(list(text[: len(text) // 128 * 128])).view(-1, 128)[:32].to(model.device)
    return model(input_ids=batch, labels=batch).loss.item()


def main(steps=200, folder="trained", **others):
    """Train, and say what it was good for."""
    learnt, unseen = documentation()
    model = adapt(pretrained(steps))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    before = loss_of(model, unseen)
    train(
        model,
        rows(learnt, 8 * total_steps),
        folder=folder,
        checkpoint=sys.argv[1] if len(sys.argv) > 1 else None,
        **others,
    )
    after = loss_of(model, unseen)
    print(f"held out: loss {before:.2f} before, {after:.2f} after; {trained / model.num_parameters():.1%} was trained")
    return before, after


if __name__ == "__main__":
    main()
