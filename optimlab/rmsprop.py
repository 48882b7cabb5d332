r"""RMSprop: gradient descent with a step size of its own for every weight.

Gradients of different weights differ by orders of magnitude. RMSprop (Hinton, 2012) divides each
by a running root mean square of itself, so that every weight moves by about the learning rate:

.. math::
    v_t = \alpha v_{t-1} + (1 - \alpha) g_t^2, \qquad
    \theta_t = \theta_{t-1} - \gamma \frac{g_t}{\sqrt{v_t} + \epsilon} .

**Centered** (Graves, 2013, eqs. 38-45) estimates the variance instead of the second moment, by
subtracting the square of the running mean :math:`\bar g_t`:

.. math::
    % with centered=True
    \bar g_t = \bar g_{t-1} + (1 - \alpha) (g_t - \bar g_{t-1}), \qquad
    \tilde v_t = v_t - \bar g_t^2, \qquad
    \theta_t = \theta_{t-1} - \gamma \frac{g_t}{\sqrt{\tilde v_t} + \epsilon} .

**Momentum** accumulates the normalized gradients and steps along the sum:

.. math::
    % with momentum=0.6
    b_t = \mu b_{t-1} + \frac{g_t}{\sqrt{v_t} + \epsilon}, \qquad
    \theta_t = \theta_{t-1} - \gamma b_t .
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT

from optimlab.core import checks
from optimlab.core.groups import ParamGroup
from optimlab.core.values import T, add_scaled, both_as_real
from optimlab.rule import Count, Like, Rule, StateSpec, Step, pure, unequal_steps


class RMSprop(Rule):
    r"""Gradient descent divided by a running root mean square of the gradients.

    .. math::
        % with every option
        g_t &\leftarrow \pm \nabla f(\theta_{t-1}) + \lambda \theta_{t-1} \\
        v_t &\leftarrow \alpha v_{t-1} + (1 - \alpha) g_t^2 \\
        \bar g_t &\leftarrow \bar g_{t-1} + (1 - \alpha) (g_t - \bar g_{t-1}) \\
        \tilde v_t &\leftarrow \begin{cases} v_t - \bar g_t^2 & \text{centered} \\
            v_t & \text{otherwise} \end{cases} \\
        b_t &\leftarrow \mu b_{t-1} + g_t / (\sqrt{\tilde v_t} + \epsilon) \\
        \theta_t &\leftarrow \theta_{t-1} - \gamma b_t

    Args:
        params: parameters, ``(name, parameter)`` pairs, or dicts that define parameter groups.
        lr: learning rate :math:`\gamma \ge 0`; a number or a 1-element tensor.
        alpha: :math:`\alpha \ge 0`, the share of the running averages that each step keeps.
        eps: :math:`\epsilon \ge 0`, added to the root; bounds the step where gradients vanish.
        weight_decay: :math:`\lambda \ge 0`, an L2 penalty added to the gradient.
        momentum: :math:`\mu \ge 0`.
        centered: divide by an estimate of the standard deviation instead.
        capturable: keep step counts on the device, for CUDA graphs.
        foreach: carry the rule out on lists of tensors; ``None`` chooses as torch does: lists on
            CUDA, tensor by tensor on CPU.
        maximize: ascend instead of descend (:math:`g_t` is negated).
        differentiable: let autograd differentiate through the step.

    State, starting at zero, each but the count of the parameter's shape, dtype and strides:
        step: how many steps were made; float32 (torch's default dtype, if that is float64).
        square_avg: :math:`v_t`.
        momentum_buffer: :math:`b_t`, only with momentum.
        grad_avg: :math:`\bar g_t`, only if centered.

    Raises:
        ValueError: for a negative or NaN ``lr``, ``alpha``, ``eps``, ``weight_decay`` or
            ``momentum``, or a tensor ``lr`` of more than one element.
        RuntimeError: in ``step``, for sparse gradients.

    Example:
        >>> import torch, optimlab
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> optimizer = optimlab.RMSprop([weight], lr=0.5, alpha=0.75, eps=0)
        >>> (4 * weight).sum().backward()
        >>> optimizer.step()
        >>> weight.tolist()  # 1 - 0.5 * 4 / sqrt(0.25 * 4**2): the size of the gradient cancels
        [0.0]

    Note:
        The root is taken before eps is added; TensorFlow adds eps first. There is no bias
        correction: the average starts at zero, so that

        .. math::
            % with momentum=0
            v_1 = (1 - \alpha) g_1^2, \qquad
            |\theta_1 - \theta_0| = \frac{\gamma |g_1|}{\sqrt{1 - \alpha} |g_1| + \epsilon} :

        the first step is the learning rate divided by :math:`\sqrt{1 - \alpha}`, ten times it at
        the default.

    Source:
        Hinton, "Neural networks for machine learning", lecture 6e (2012);
        Graves, "Generating sequences with recurrent neural networks" (2013), eqs. 38-45.
    """

    keys = (
        *("lr", "alpha", "eps", "weight_decay", "momentum", "centered", "foreach", "maximize"),
        *("differentiable", "capturable"),
    )
    scalars = ("lr",)
    sparse_gradients = "RMSprop does not support sparse gradients"
    state_spec = StateSpec(
        Count(device=None, read_after="square_avg"),
        Like("square_avg"),
        Like("momentum_buffer", when=lambda group: group["momentum"] > 0),
        Like("grad_avg", when="centered"),
    )
    state_dict_defaults: ClassVar = {
        "momentum": 0,
        "centered": False,
        "foreach": None,
        "maximize": False,
        "differentiable": False,
        "capturable": False,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        checks.check_tensor("lr", lr)
        if not 0.0 <= lr:
            raise ValueError(f"Invalid learning rate: {lr}")
        if not 0.0 <= eps:
            raise ValueError(f"Invalid epsilon value: {eps}")
        if not 0.0 <= momentum:
            raise ValueError(f"Invalid momentum value: {momentum}")
        if not 0.0 <= weight_decay:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        if not 0.0 <= alpha:
            raise ValueError(f"Invalid alpha value: {alpha}")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "alpha": alpha,
            "eps": eps,
            "centered": centered,
            "weight_decay": weight_decay,
            "capturable": capturable,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    @pure
    @unequal_steps
    def update(
        self, param: T, grad: T, state: dict[str, T], step: Step[T], group: ParamGroup
    ) -> None:
        lr, alpha, eps = group["lr"], group["alpha"], group["eps"]
        weight_decay, momentum = group["weight_decay"], group["momentum"]
        square_avg = state["square_avg"]

        if group["maximize"]:
            grad = -grad
        if weight_decay != 0:
            grad = add_scaled(grad, param, weight_decay, derive=False)
        param, grad = both_as_real(param, grad)

        square_avg.mul_(alpha).addcmul_(grad, grad, value=1 - alpha)
        if group["centered"]:
            grad_avg = state["grad_avg"]
            grad_avg.lerp_(grad, 1 - alpha)
            root = square_avg.addcmul(grad_avg, grad_avg, value=-1).sqrt_()
        else:
            root = square_avg.sqrt()
        # The derivative of a square root is computed from its result, which must then survive.
        denom = root.add(eps) if group["differentiable"] else root.add_(eps)

        if momentum > 0:
            momentum_buffer = state["momentum_buffer"]
            momentum_buffer.mul_(momentum).addcdiv_(grad, denom)
            param.add_(momentum_buffer, alpha=-lr)
        else:
            param.addcdiv_(grad, denom, value=-lr)
