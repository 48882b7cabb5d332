r"""Stochastic gradient descent, with heavy-ball and Nesterov momentum.

Gradient descent walks downhill: :math:`\theta_t = \theta_{t-1} - \gamma g_t`. It is slow along
flat directions and jumps from wall to wall across steep ones.

**The heavy ball** (Polyak, 1964) gives the iterate a mass. A velocity accumulates the gradients and
forgets them at the rate :math:`\mu`:

.. math::
    % with momentum=0.6, dampening=0.3
    b_t = \mu b_{t-1} + (1 - \tau) g_t, \qquad b_1 = g_1, \qquad
    \theta_t = \theta_{t-1} - \gamma b_t .

Under a constant gradient the velocity grows until

.. math::
    % with momentum=0.6, dampening=0.3
    % under constant gradients
    \lim_{t \to \infty} b_t = \frac{1 - \tau}{1 - \mu} g_1 :

momentum 0.9 makes steps up to ten times longer where gradients agree, and cancels them where they
alternate.

**Nesterov's look-ahead** (Nesterov, 1983; Sutskever et al., 2013) takes the gradient where the
velocity is about to carry the parameters. Let :math:`\phi` be the parameters and :math:`b` the
velocity of

.. math::
    % with momentum=0.6, nesterov=True
    b_t = \mu b_{t-1} + \nabla f(\phi_{t-1} - \gamma \mu b_{t-1}), \qquad
    \phi_t = \phi_{t-1} - \gamma b_t, \qquad b_0 = 0, \qquad \phi_0 = \theta_0 ,

and store the looked-ahead point :math:`\theta_t = \phi_t - \gamma \mu b_t` instead of
:math:`\phi_t`. The gradient is then taken at the stored parameters,
:math:`g_t = \nabla f(\theta_{t-1})`, and

.. math::
    \theta_t &= \phi_{t-1} - \gamma b_t - \gamma \mu b_t \\
             &= \theta_{t-1} + \gamma \mu b_{t-1} - \gamma b_t - \gamma \mu b_t \\
             &= \theta_{t-1} - \gamma (g_t + \mu b_t) ,

because :math:`b_t - \mu b_{t-1} = g_t`. That is the form below: the same velocity, and a step
along :math:`g_t + \mu b_t` instead of :math:`b_t`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT

from optimlab.core import checks, devices
from optimlab.core.batch import Batch, Execution, FusedStep, Member
from optimlab.core.groups import ParamGroup
from optimlab.core.tensor_list import PartialState
from optimlab.core.values import (
    L,
    T,
    add_like,
    add_scaled,
    fused_kernel,
    subtract_scaled_,
)
from optimlab.rule import First, Rule, StateSpec, Step, pure, unequal_steps


def heavy_ball(grad: T, state: dict[str, T], momentum: Any, dampening: Any) -> T:
    r"""Accumulate the velocity and return it.

    .. math::
        % with momentum=0.6, dampening=0.3
        b_t = \mu b_{t-1} + (1 - \tau) g_t, \qquad b_1 = g_1

    The first velocity is the gradient itself, not dampened.
    """
    if isinstance(state, PartialState):
        return state.complete(heavy_ball, grad, momentum, dampening)
    momentum_buffer = state.get("momentum_buffer")
    if momentum_buffer is None:
        state["momentum_buffer"] = momentum_buffer = grad.detach().clone()
        return momentum_buffer
    return momentum_buffer.mul_(momentum).add_(grad, alpha=1 - dampening)


def look_ahead(grad: T, velocity: T, momentum: Any) -> T:
    r"""Return Nesterov's direction, along which the step goes.

    .. math::
        % with momentum=0.6, nesterov=True
        \theta_t = \theta_{t-1} - \gamma (g_t + \mu b_t)
    """
    return add_like(grad, velocity, momentum)


class SGD(Rule):
    r"""Gradient descent, optionally with heavy-ball or Nesterov momentum.

    .. math::
        % with every option
        g_t &\leftarrow \pm \nabla f(\theta_{t-1}) + \lambda \theta_{t-1} \\
        b_t &\leftarrow \mu b_{t-1} + (1 - \tau) g_t, \qquad b_1 = g_1 \\
        \theta_t &\leftarrow \theta_{t-1} - \gamma
            \begin{cases} g_t + \mu b_t & \text{nesterov} \\ b_t & \text{momentum} \\
            g_t & \text{otherwise} \end{cases}

    Args:
        params: parameters, ``(name, parameter)`` pairs, or dicts that define parameter groups.
        lr: learning rate :math:`\gamma \ge 0`; a number or a 1-element tensor.
        momentum: :math:`\mu \ge 0`, usually 0.9; 0 keeps no velocity and no state.
        dampening: :math:`\tau`; the share of each gradient that is kept out of the velocity, from
            the second step on.
        weight_decay: :math:`\lambda \ge 0`, an L2 penalty added to the gradient.
        nesterov: step along :math:`g_t + \mu b_t`; needs a momentum and no dampening.
        maximize: ascend instead of descend (:math:`g_t` is negated).
        foreach: carry the rule out on lists of tensors; ``None`` chooses as torch does: lists on
            CUDA, tensor by tensor on CPU.
        differentiable: let autograd differentiate through the step.
        fused: hand the step to torch's fused kernel, whose bits are its own.

    State:
        momentum_buffer: :math:`b_t`; shape, dtype and strides of the first gradient. Only with
            momentum; without it there is no state at all, and never a step count.

    Raises:
        ValueError: for a negative ``lr``, ``momentum`` or ``weight_decay``, a tensor ``lr`` of
            more than one element, or ``nesterov`` without momentum or with dampening.
        RuntimeError: for ``fused`` together with ``foreach`` or ``differentiable``.

    Example:
        >>> import torch, optimlab
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = optimlab.SGD([weight], lr=0.25, momentum=0.5)
        >>> for _ in range(2):
        ...     optimizer.zero_grad()
        ...     weight.sum().backward()
        ...     optimizer.step()
        >>> weight.tolist()  # 1 - 0.25 * 1 - 0.25 * 1.5
        [0.375, 0.375]

    Note:
        Sutskever et al. put the learning rate into the velocity:

        .. math::
            % with momentum=0.6
            v_t = \mu v_{t-1} - \gamma g_t, \qquad v_0 = 0, \qquad
            \theta_t = \theta_{t-1} + v_t .

        While :math:`\gamma` is constant the paths are the same; when a scheduler changes it, here
        the whole velocity is rescaled at once. Keras and the paper start the velocity at zero; the
        path differs only with dampening.

    Source:
        Polyak, "Some methods of speeding up the convergence of iteration methods" (1964), eq. 9;
        Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and momentum in deep
        learning" (2013), eqs. 1-4.
    """

    keys = (
        *("weight_decay", "momentum", "lr", "dampening", "nesterov", "maximize"),
        *("foreach", "fused"),
    )
    scalars = ("lr",)
    state_spec = StateSpec(First("momentum_buffer", when=lambda group: group["momentum"] != 0))
    complex_as_real = False
    state_dict_defaults: ClassVar = {
        "nesterov": False,
        "maximize": False,
        "foreach": None,
        "differentiable": False,
        "fused": False,
    }

    _prefers_foreach = True
    _need_device_dtype_check_for_fused = True

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        checks.check_tensor("lr", lr)
        # Written so that nan passes, as in torch.
        if lr < 0.0:
            raise ValueError(f"Invalid learning rate: {lr}")
        if momentum < 0.0:
            raise ValueError(f"Invalid momentum value: {momentum}")
        if weight_decay < 0.0:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)

    @pure
    @unequal_steps
    def update(
        self, param: T, grad: T, state: dict[str, T], step: Step[T], group: ParamGroup
    ) -> None:
        lr, weight_decay = group["lr"], group["weight_decay"]
        momentum, dampening = group["momentum"], group["dampening"]

        if group["maximize"]:
            grad = -grad
        if weight_decay != 0:
            grad = add_scaled(grad, param, weight_decay)
        direction = grad
        if momentum != 0:
            velocity = heavy_ball(grad, state, momentum, dampening)
            direction = look_ahead(grad, velocity, momentum) if group["nesterov"] else velocity
        subtract_scaled_(param, direction, lr)

    def fused_update(
        self, param: L, grad: L, state: dict[str, L], step: L, group: ParamGroup, scaling: FusedStep
    ) -> None:
        fused_kernel(
            "_fused_sgd_",
            param,
            grad,
            state.get("momentum_buffer"),
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            is_first_step=scaling.is_first_step,
            grad_scale=scaling.grad_scale,
            found_inf=scaling.found_inf,
        )

    def _foreach_by_default(self, params: Sequence[Tensor], group: ParamGroup) -> bool:
        # torch's SGD does not ask whether the step is differentiable.
        return devices.foreach_by_default(params, differentiable=False)

    def _collect_member(self, param: Tensor, grad: Tensor, group: ParamGroup) -> Member:
        if group["fused"] and self._need_device_dtype_check_for_fused:
            devices.check_fused(param)
            self._need_device_dtype_check_for_fused = False
        return super()._collect_member(param, grad, group)

    def check(self, batch: Batch) -> None:
        """Refuse sparse gradients for fused kernels, and scaled ones for anything else.

        Raises:
            AssertionError: if a gradient scaler expects a fused kernel and none was asked for.
            RuntimeError: for a sparse gradient.
        """
        checks.check_scaling(self, batch)
        is_sparse = [member.grad.is_sparse for member in batch.members]
        if batch.execution is Execution.FUSED and any(is_sparse):
            raise RuntimeError("`_fused_sgd` does not support sparse gradients")
