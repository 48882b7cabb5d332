r"""Adam: momentum and a step size of its own for every weight, both corrected for their start.

Adam (Kingma and Ba, 2015) keeps two running averages of each weight's gradient, its mean and
its uncentered variance:

.. math::
    % with weight_decay=0
    m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad
    v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 .

**Bias correction.** Both start at zero, and so lean towards zero: unrolled,
:math:`m_t = (1 - \beta_1) \sum_{i=1}^t \beta_1^{t-i} g_i`, whose weights add up to
:math:`(1 - \beta_1) \sum_{i=1}^t \beta_1^{t-i} = 1 - \beta_1^t` instead of 1. Dividing by that sum
makes them averages again:

.. math::
    \hat m_t = \frac{m_t}{1 - \beta_1^t}, \qquad \hat v_t = \frac{v_t}{1 - \beta_2^t}, \qquad
    \theta_t = \theta_{t-1} - \gamma \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon} .

At the first step :math:`\hat m_1 = g_1` and :math:`\hat v_1 = g_1^2`, so that
:math:`|\theta_1 - \theta_0| = \gamma |g_1| / (|g_1| + \epsilon)`: every weight whose
gradient is large beside :math:`\epsilon` moves by :math:`\gamma`.

**Weight decay.** An L2 penalty becomes a part of the gradient,

.. math::
    % with weight_decay=0.1
    g_t = \nabla f(\theta_{t-1}) + \lambda \theta_{t-1}, \qquad
    m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t ,

where it is divided by :math:`\sqrt{\hat v_t}` like everything else: weights with large gradients
decay less. AdamW (``adamw.py``) decouples it.

**AMSGrad** (Reddi, Kale and Kumar, 2018) divides by the largest :math:`v` so far, so that steps
do not grow again when large gradients are forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.optim.optimizer import ParamsT

from optimlab import renamed
from optimlab.core import checks
from optimlab.core.batch import Batch, Execution, FusedStep, Member
from optimlab.core.groups import ParamGroup
from optimlab.core.values import (
    L,
    T,
    add_scaled,
    as_scalar,
    beside,
    both_as_real,
    divide_,
    fused_kernel,
    is_many,
    is_number,
    maximum_,
    wants_gradient,
)
from optimlab.rule import Count, Like, Rule, StateSpec, Step, pure, unequal_steps

__getattr__ = renamed.moved_from(__name__)


def second_moment(state: dict[str, T], group: ParamGroup, *, derive: bool) -> T:
    """Return the second moment that the root is taken of, with AMSGrad the largest one so far."""
    if group["amsgrad"]:
        return maximum_(state["max_exp_avg_sq"], state["exp_avg_sq"], derive=derive)
    return state["exp_avg_sq"]


class Adam(Rule):
    r"""Adaptive moment estimation.

    .. math::
        % with every option
        g_t &\leftarrow \pm \nabla f(\theta_{t-1}) + \lambda \theta_{t-1} \\
        m_t &\leftarrow m_{t-1} + (1 - \beta_1) (g_t - m_{t-1}) \\
        v_t &\leftarrow \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        u_t &\leftarrow \begin{cases} \max(u_{t-1}, v_t) & \text{amsgrad} \\
            v_t & \text{otherwise} \end{cases} \\
        \theta_t &\leftarrow \theta_{t-1} - \frac{\gamma}{1 - \beta_1^t}
            \frac{m_t}{\sqrt{u_t} / \sqrt{1 - \beta_2^t} + \epsilon}

    Args:
        params: parameters, ``(name, parameter)`` pairs, or dicts that define parameter groups.
        lr: learning rate :math:`\gamma \ge 0`, about the size of each weight's step; a number or
            a 1-element tensor.
        betas: :math:`\beta_1, \beta_2 \in [0, 1)`, the shares of the running averages that each
            step keeps; two floats or two 1-element tensors.
        eps: :math:`\epsilon \ge 0`, added to the root; bounds the step where gradients vanish.
        weight_decay: :math:`\lambda \ge 0`, an L2 penalty added to the gradient.
        amsgrad: divide by the largest :math:`v_t` so far.
        foreach: carry the rule out on lists of tensors; ``None`` does so on CUDA, as torch does.
        maximize: ascend instead of descend (:math:`g_t` is negated).
        capturable: keep step counts on the device, for CUDA graphs.
        differentiable: let autograd differentiate through the step.
        fused: hand the step to torch's fused kernel, whose bits are its own.
        decoupled_weight_decay: decay the weights themselves, as :class:`AdamW` does.

    State, starting at zero, each but the count of the parameter's shape, dtype and strides:
        step: how many steps were made; float32 (torch's default dtype, if that is float64).
        exp_avg: :math:`m_t`.
        exp_avg_sq: :math:`v_t`.
        max_exp_avg_sq: :math:`u_t`, the largest :math:`v_t` so far, only with ``amsgrad``.

    Raises:
        ValueError: for a hyperparameter outside its range, betas of two kinds, tensors of more
            than one element, or tensors with ``foreach`` but without ``capturable``.
        RuntimeError: for ``fused`` with ``foreach`` or ``differentiable``, or sparse gradients.

    Example:
        >>> import torch, optimlab
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = optimlab.Adam([weight], lr=0.25, eps=0)
        >>> (weight * torch.tensor([8.0, -0.5])).sum().backward()
        >>> optimizer.step()
        >>> weight.tolist()  # the first step is lr in size, whatever the gradient's
        [0.75, 1.25]

    Note:
        The paper's more efficient form (end of section 2) folds the correction of :math:`v_t` into
        the step size and adds :math:`\epsilon` to the uncorrected root; Keras does so. Here eps is
        added to the corrected root, as in the paper's algorithm 1. ``amsgrad`` takes the maximum
        before the bias correction.

    Source:
        Kingma and Ba, "Adam: a method for stochastic optimization" (2015), algorithm 1;
        Reddi, Kale and Kumar, "On the convergence of Adam and beyond" (2018), algorithm 2.
    """

    keys = (
        *("amsgrad", "lr", "weight_decay", "eps", "maximize", "foreach", "capturable"),
        *("differentiable", "fused", "decoupled_weight_decay"),
    )
    scalars = ("lr", "betas")
    state_spec = StateSpec(
        Count(), Like("exp_avg"), Like("exp_avg_sq"), Like("max_exp_avg_sq", when="amsgrad")
    )
    sparse_gradients = "Adam does not support sparse gradients, please consider SparseAdam instead"
    state_dict_defaults = {  # noqa: RUF012 - as Optimizer declares it
        "amsgrad": False,
        "maximize": False,
        "foreach": None,
        "capturable": False,
        "differentiable": False,
        "decoupled_weight_decay": False,
        "fused": None,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        checks.check_tensor("lr", lr, listed_by_number=foreach and not capturable)
        if not 0.0 <= lr:
            raise ValueError(f"Invalid learning rate: {lr}")
        if not 0.0 <= eps:
            raise ValueError(f"Invalid epsilon value: {eps}")
        pair = betas[0], betas[1]
        for i, beta in enumerate(pair):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"Invalid beta parameter at index {i}: {beta}")
        if not 0.0 <= weight_decay:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        if not any(all(isinstance(beta, kind) for beta in pair) for kind in (float, Tensor)):
            raise ValueError("betas must be either both floats or both Tensors")
        for i, beta in enumerate(pair):
            checks.check_tensor(f"betas[{i}]", beta, listed_by_number=foreach and not capturable)
        defaults = {
            "lr": lr,
            "betas": tuple(map(as_scalar, betas)),
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults)

    @pure
    @unequal_steps
    def update(
        self, param: T, grad: T, state: dict[str, T], step: Step[T], group: ParamGroup
    ) -> None:
        lr, eps, weight_decay = group["lr"], group["eps"], group["weight_decay"]
        beta1, beta2 = group["betas"]
        exp_avg, exp_avg_sq = state["exp_avg"], state["exp_avg_sq"]

        if group["maximize"]:
            grad = -grad
        if weight_decay != 0:
            if group["decoupled_weight_decay"]:
                param.mul_(1 - lr * weight_decay)
            else:
                grad = add_scaled(grad, param, weight_decay, derive=group["differentiable"])
        param, grad = both_as_real(param, grad)

        exp_avg.lerp_(grad, 1 - beside(beta1, param, group))
        if group["differentiable"] and wants_gradient(beta2):
            # addcmul has no derivative with respect to its value; lerp has one for its weight.
            exp_avg_sq.lerp_(grad.square(), 1 - beta2)
        else:
            exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)

        # One formula, three roundings: torch spells it differently where the step count is a tensor
        # whose value must not be read, and there once more for lists.
        if is_number(step):
            bias_correction1, bias_correction2 = 1 - beta1**step, 1 - beta2**step
            step_size, root = lr / bias_correction1, bias_correction2**0.5
            denom = divide_(second_moment(state, group, derive=False).sqrt(), root).add_(eps)
            param.addcdiv_(exp_avg, denom, value=-step_size)
        elif is_many(param):
            # Lists have no 1 - x and no lr / x, so the minus sign is carried through.
            negative_step_size = (beta1**step).sub_(1).div_(lr).reciprocal_()
            root = (beta2**step).sub_(1).neg_().sqrt_()
            denom = second_moment(state, group, derive=True).sqrt().div_(root)
            param.addcdiv_(exp_avg, denom.add_(eps).div_(negative_step_size))
        else:
            # The step size goes into the denominator, because addcdiv takes no tensor as its value.
            bias_correction1, bias_correction2 = 1 - beta1**step, 1 - beta2**step
            negative_step_size, root = -(lr / bias_correction1), bias_correction2.sqrt()
            scaled_root = second_moment(state, group, derive=True).sqrt() / (
                root * negative_step_size
            )
            denom = scaled_root.add_(eps / negative_step_size)
            # The next step changes exp_avg in place; autograd needs what it was.
            param.addcdiv_(exp_avg.clone() if group["differentiable"] else exp_avg, denom)

    def fused_update(
        self, param: L, grad: L, state: dict[str, L], step: L, group: ParamGroup, scaling: FusedStep
    ) -> None:
        beta1, beta2 = group["betas"]
        step.add_(1)
        fused_kernel(
            "_fused_adamw_" if group["decoupled_weight_decay"] else "_fused_adam_",
            param,
            grad,
            state["exp_avg"],
            state["exp_avg_sq"],
            state.get("max_exp_avg_sq"),
            step,
            amsgrad=group["amsgrad"],
            lr=beside(group["lr"], param, group),
            beta1=as_scalar(beta1),
            beta2=as_scalar(beta2),
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
            grad_scale=scaling.grad_scale,
            found_inf=scaling.found_inf,
        )
        if scaling.found_inf is not None:  # then the kernel changed nothing
            step.sub_(scaling.found_inf)

    def _foreach_by_default(self, params: Sequence[Tensor], group: ParamGroup) -> bool:
        lr_by_number = isinstance(group["lr"], Tensor) and not group["capturable"]
        return super()._foreach_by_default(params, group) and not lr_by_number

    def _collect(self, group: ParamGroup) -> Batch:
        _, _ = group["betas"]  # what is no pair raises torch's error, before anything else does
        return super()._collect(group)

    def _collect_member(self, param: Tensor, grad: Tensor, group: ParamGroup) -> Member:
        member = super()._collect_member(param, grad, group)
        checks.check_no_gradient(member, group)
        if group["foreach"]:
            checks.check_lr_on_lists(group)
        return member

    def check(self, batch: Batch) -> None:
        if batch.execution is Execution.FOR_LOOP:
            checks.check_scaling(self, batch)
            checks.check_capturable(batch)
        elif batch.execution is Execution.FOREACH and batch.members:
            checks.check_tensors_on_lists(batch.group)
            checks.check_capturable(batch, lists_on_xla=False)
            checks.check_scaling(self, batch)
            checks.check_autograd(batch)
        elif batch.members and batch.differentiable:
            raise RuntimeError("Adam with fused=True does not support differentiable=True")
