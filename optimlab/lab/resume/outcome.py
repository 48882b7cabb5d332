"""What the prover answers."""

from __future__ import annotations

from dataclasses import dataclass

from optimlab.lab.findings import Finding, listed


@dataclass(frozen=True)
class Offender:
    """The first step after which not everything has the same bits.

    Attributes:
        step: the step, counted from 1; that of the checkpoint means right after loading.
        name: the first tensor that differs, in the order of ``tensors()``.
        what: what is known about it.
        also: the other names that differ after the same step.
    """

    step: int
    name: str
    what: str
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Resumption:
    """Whether a run goes on to the same bits; prints itself.

    Attributes:
        steps: how many steps the whole run has.
        at: after which one it was interrupted.
        names: how many tensors and values were compared after each step.
        compared: how many elements in all.
        offender: the first difference, ``None`` if there is none.
        repeatable: whether two runs in one process agree up to the interruption. If not, the run
            itself gives other bits each time, and no checkpoint could change that.
        causes: what, put back from the uninterrupted run, makes the resumed one equal. Each of them
            alone, or all of them together: see ``together``. Their kinds are ``"random numbers"``,
            ``"scheduler"``, ``"optimizer state"``, ``"model"``, ``"gradient scaler"`` and ``"data
            order or progress"``.
        together: whether all causes have to be put back.
        losses: tensors that came back from the checkpoint with fewer bits.
        out_of_reach: parts that could not be put back to try.
    """

    steps: int
    at: int
    names: int
    compared: int
    offender: Offender | None = None
    repeatable: bool = True
    causes: tuple[Finding, ...] = ()
    together: bool = False
    losses: tuple[Finding, ...] = ()
    out_of_reach: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether the resumed run has the same bits after every step."""
        return self.offender is None

    def __str__(self) -> str:
        run = f"{self.at} steps, saved, loaded in a new process, {self.steps - self.at} steps"
        if self.offender is None:
            return (
                f"proved: {run}: the same bits as {self.steps} steps at a stretch, after each "
                f"step, in {self.names} tensors and values ({self.compared} elements in all)"
            )
        step, first = self.offender.step, f"{self.offender.name}: {self.offender.what}"
        when = "right after loading" if step == self.at else f"after step {step}"
        head = f"not resumable: {run}: first difference {when}: {first}"
        if not self.repeatable:
            head = f"not repeatable: two runs in one process differ after step {step}, before "
            head += f"anything is saved: {first}"
        also = [f"  with it: {listed(self.offender.also)}"] if self.offender.also else []
        return "\n".join([head, *also, *self._explained()])

    def _explained(self) -> list[str]:
        if not self.repeatable:
            return ["  seed its generators, and ask torch for deterministic algorithms"]
        lines = [f"  {loss.kind}: {loss.where} {loss.what}" for loss in self.losses[:4]]
        if len(self.losses) > 4:
            lines.append(f"  dtype loss in {len(self.losses) - 4} more")
        causes = [f"{cause.kind}: {cause.where}" for cause in self.causes]
        for index, cause in enumerate(self.causes):
            causes[index] += "" if cause.what == "not restored" else f": {cause.what}"
        if not causes:
            beyond = ", ".join(self.out_of_reach) or "nothing that was an attribute of the run"
            what = f"  cause not found: putting parts back did not help; out of reach: {beyond}"
            return [*lines, what]
        if len(causes) == 1:
            return [*lines, f"  not restored: {causes[0]}"]
        how = "each of them alone, put back, makes the bits equal"
        how = "all of them have to be restored" if self.together else how
        return [*lines, "  not restored:", *(f"    {cause}" for cause in causes), f"  {how}"]
