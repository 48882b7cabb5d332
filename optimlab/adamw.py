r"""AdamW: Adam whose weight decay shrinks the weights themselves.

As an L2 penalty, weight decay becomes a part of the gradient, and is divided by its root mean
square (``adam.py``). AdamW (Loshchilov and Hutter, 2019) decouples it:

.. math::
    % with weight_decay=0.1
    \hat m_t = \frac{m_t}{1 - \beta_1^t}, \qquad \hat v_t = \frac{v_t}{1 - \beta_2^t}, \qquad
    \theta_t = (1 - \gamma \lambda) \theta_{t-1}
        - \gamma \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon} .
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from optimlab.adam import Adam


class AdamW(Adam):
    r"""Adam with decoupled weight decay.

    .. math::
        % with every option
        g_t &\leftarrow \pm \nabla f(\theta_{t-1}) \\
        m_t &\leftarrow m_{t-1} + (1 - \beta_1) (g_t - m_{t-1}) \\
        v_t &\leftarrow \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        u_t &\leftarrow \begin{cases} \max(u_{t-1}, v_t) & \text{amsgrad} \\
            v_t & \text{otherwise} \end{cases} \\
        \theta_t &\leftarrow (1 - \gamma \lambda) \theta_{t-1} - \frac{\gamma}{1 - \beta_1^t}
            \frac{m_t}{\sqrt{u_t} / \sqrt{1 - \beta_2^t} + \epsilon}

    as in :class:`Adam`, whose weight decay is a part of :math:`g_t`. Arguments, state and
    errors are those of :class:`Adam`, without ``decoupled_weight_decay``, which is always on.

    Note:
        The decay is proportional to the learning rate, and follows its schedule. The paper has a
        schedule multiplier where this has the learning rate.

    Example:
        >>> import torch, optimlab
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> optimizer = optimlab.AdamW([weight], lr=0.5, weight_decay=0.5)
        >>> (0 * weight).sum().backward()
        >>> optimizer.step()
        >>> weight.tolist()  # the decay alone: 1 - 0.5 * 0.5
        [0.75]

    Source:
        Loshchilov and Hutter, "Decoupled weight decay regularization" (2019), algorithm 2.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # whatever was saved, this class decouples
            group["decoupled_weight_decay"] = True
