"""Which execution serves which optimizer on this machine, and why."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from optimlab.adam import Adam
from optimlab.adamw import AdamW
from optimlab.native.bytecode import NotServedError
from optimlab.native.launch import DTYPES
from optimlab.native.self_check import Capabilities, capabilities
from optimlab.native.tracing import encode_rule
from optimlab.rmsprop import RMSprop
from optimlab.rule import Rule
from optimlab.sgd import SGD

_INSTRUCTION_SETS = ("plain C", "AVX2", "AVX-512")
_ELSEWHERE = """\
ATen, tensor by tensor: half precision, complex and sparse tensors, tensor lr and
  betas, differentiable, momentum's first step, tensors that overlap or are not dense
torch._foreach_*: foreach=True, and CUDA by default. torch._fused_*: fused=True"""


@dataclass(frozen=True)
class Info:
    """What :func:`info` found; prints itself.

    Attributes:
        native: whether the native kernel is loaded.
        reason: why it is not, or what it may not be used for.
        instruction_set: that the kernel uses; empty without one.
        served: for each optimizer and dtype by what it is carried out.
    """

    native: bool
    reason: str
    instruction_set: str
    served: dict[str, dict[str, str]]

    def __str__(self) -> str:
        kernel = f"native kernel: {self.instruction_set}, {torch.get_num_threads()} threads"
        without = "no native kernel; ATen serves in its place, to the same bits"
        lines = [
            f"torch {torch.__version__}, CPU capability {torch.backends.cpu.get_cpu_capability()}",
            kernel if self.native else without,
            *([f"  {self.reason}"] if self.reason else []),
        ]
        for name, dtypes in self.served.items():
            lines.append(f"{name + ':':<9} {', '.join(f'{d} {by}' for d, by in dtypes.items())}")
        return "\n".join([*lines, _ELSEWHERE])


def info(*optimizers: type[Rule]) -> Info:
    """Tell which execution serves which optimizer on CPU, with default hyperparameters, and why.

    Args:
        optimizers: classes to ask for beside :class:`SGD`, :class:`Adam`, :class:`AdamW` and
            :class:`RMSprop`; each must take a list of parameters as its only required argument.

    Returns:
        Info: print it.
    """
    found = capabilities()
    kernel = found.kernel
    served = {}
    for optimizer_class in (SGD, Adam, AdamW, RMSprop, *optimizers):
        optimizer = optimizer_class([torch.zeros(1, device="cpu")])
        served[optimizer_class.__name__] = {
            str(dtype).removeprefix("torch."): _carried_out_by(found, optimizer, dtype)
            for dtype in DTYPES
        }
    used = "" if kernel is None else _INSTRUCTION_SETS[kernel.limit_instruction_set(2)]
    return Info(kernel is not None, found.reason, used, served)


def _carried_out_by(found: Capabilities, optimizer: Rule, dtype: torch.dtype) -> str:
    group = optimizer.param_groups[0]
    try:
        bytecode = encode_rule(
            optimizer, ("param", "grad", *optimizer.state_spec.names(group)), 2.0, group
        )
    except (NotServedError, AttributeError, TypeError):
        return "ATen"
    return "native kernel" if found.serves(bytecode.opcodes, dtype) else "ATen"
