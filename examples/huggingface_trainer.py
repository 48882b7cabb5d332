"""Train a small language model under Hugging Face's Trainer, and resume it half way.

What one learns: the Trainer takes an optimizer in two ways. Given a class and its arguments
(`optimizer_cls_and_kwargs`), it makes the parameter groups itself, with weight decay for matrices
only, and the schedule that its arguments name. Given an optimizer and a scheduler (`optimizers`),
it uses both as they are. Either way it is the Trainer that accumulates gradients, clips them, saves
checkpoints and resumes, and the optimizer is asked for no more than `step`, `zero_grad`,
`state_dict` and `load_state_dict`.

The model is a GPT-2 of two layers with random weights that learns to count: nothing is downloaded.

    python examples/huggingface_trainer.py
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from common import Options, Result, conclude, parser, start
from runs import ending, same_bits
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import Dataset

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    logging,
)

WORDS, LENGTH = 32, 12

Give = Callable[[Any, Iterable[Tensor], int], Mapping[str, Any]]
"""Tells the Trainer which optimizer to use: the library, the parameters, the number of steps."""


class Counting(Dataset[dict[str, Tensor]]):
    """Sequences that count up from every word: 5 6 7 ..., and after the last word the first."""

    def __len__(self) -> int:
        return WORDS

    def __getitem__(self, first: int) -> dict[str, Tensor]:
        counted = (torch.arange(LENGTH) + first) % WORDS
        return {"input_ids": counted, "labels": counted}


def as_class(optim: Any, _params: Iterable[Tensor], _steps: int) -> Mapping[str, Any]:
    """Give a class: parameter groups and schedule are the Trainer's."""
    return {"optimizer_cls_and_kwargs": (optim.AdamW, {"lr": 1e-2, "betas": (0.9, 0.99)})}


def as_object(optim: Any, params: Iterable[Tensor], steps: int) -> Mapping[str, Any]:
    """Give an optimizer with a scheduler of one's own."""
    optimizer = optim.SGD(params, lr=0.5, momentum=0.9, nesterov=True)
    return {"optimizers": (optimizer, OneCycleLR(optimizer, max_lr=0.5, total_steps=steps + 1))}


def build(optim: Any, give: Give, folder: Path, steps: int, seed: int, device: str) -> Trainer:
    """Build a Trainer with a model of random weights.

    Args:
        optim: the library that the optimizer comes from.
        give: how the Trainer gets it.
        folder: where the checkpoint goes that is saved half way.
        steps: how many optimizer steps to take in all.
        seed: of the weights, of dropout and of the order of the sequences.
        device: ``"cpu"`` or ``"cuda"``.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_grad_norm=0.5,
        weight_decay=0.01,
        lr_scheduler_type="cosine",
        warmup_steps=2,
        save_steps=half(steps),
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=device == "cpu",
        seed=seed,
    )
    model = language_model(seed)
    given = give(optim, model.parameters(), steps)
    trainer = Trainer(model, arguments, train_dataset=Counting(), **given)
    trainer.remove_callback(PrinterCallback)
    return trainer


def language_model(seed: int) -> GPT2LMHeadModel:
    """Make a GPT-2 of two layers with random weights."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=WORDS,
        n_positions=LENGTH,
        n_layer=2,
        n_head=2,
        n_embd=16,
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=False,
    )
    return GPT2LMHeadModel(config)


def half(steps: int) -> int:
    """Return the step after which the one checkpoint is saved."""
    return steps // 2 + 1


def optimizer_of(trainer: Trainer) -> Optimizer:
    """Return the optimizer that the Trainer was given, from inside the Trainer's wrapping."""
    wrapping: Any = trainer.optimizer
    optimizer: Optimizer = wrapping.optimizer
    return optimizer


def reached(trainer: Trainer) -> Result:
    """Return what the run has changed."""
    assert trainer.model is not None
    return ending(trainer.model, optimizer_of(trainer))


def run(options: Options) -> Result:
    """Train without interruption, then again from the checkpoint that was saved half way."""
    optim, steps = start(options), max(3, options.steps)  # so that some are left to resume
    result: Result = {}
    for give in (as_class, as_object):
        folder = options.out / f"huggingface-{give.__name__}"
        settings = (folder, steps, options.seed, options.device.type)
        whole = build(optim, give, *settings)
        loss = whole.train().training_loss
        resumed = build(optim, give, *settings)
        resumed.train(resume_from_checkpoint=str(folder / f"checkpoint-{half(steps)}"))
        same = same_bits(reached(resumed), reached(whole))
        given = f"{type(optimizer_of(whole)).__name__} given {give.__name__.replace('_', ' ')}"
        print(f"{given:22}  mean loss {loss:.6f}  resumed: {same}")
        result[give.__name__] = {**reached(whole), "loss": loss}
    shown = "under Hugging Face's Trainer, resumed runs end in the bits of the whole runs."
    return conclude(result, shown)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run the example."""
    run(parser(__doc__, steps=100).parse_args(arguments, Options()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
