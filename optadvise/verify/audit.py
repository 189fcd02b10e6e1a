"""One implementation stepped beside its reference, and used as trainings use it."""

from __future__ import annotations

import base64
import contextlib
import inspect
import io
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optadvise.verify import scenes as at
from optadvise.verify.reference import METHODS, Method, follow
from optadvise.verify.scenes import SCENES, STEPS, Scene
from optadvise.verify.subject import RESUMED, RESUMED_ELSEWHERE, Subject
from optadvise.verify.suspects import matching, suspects

_SAME = 1e-4  # a share below which two fp32 paths are the same method; measured: at most 3e-5 beside rounding
STOP = 4  # steps before a run is saved, and after it is loaded
_SUSPECT = 2e-3  # the same for a suspect, whose details may differ beside its mistake


class Measured(NamedTuple):
    """How far an implementation is from its reference in a scene."""

    scene: str
    words: str
    share: float | None  # of the way, at its worst; None where it could not be stepped
    step: int | None  # when
    allowed: float
    bits: int
    error: str | None = None


class Checked(NamedTuple):
    """Whether something that trainings do works."""

    name: str
    verdict: str  # ok, fails or differs
    words: str


class Auditor:
    """An implementation under audit."""

    def __init__(self, subject: Subject, made: type[torch.optim.Optimizer]) -> None:
        """Take an implementation's class.

        Args:
            subject: What it should be.
            made: The class.
        """
        self.subject = subject
        self.made = made
        signature = inspect.signature(made.__init__).parameters
        free = any(p.kind is p.VAR_KEYWORD for p in signature.values())
        self.refused = [
            name for name in subject.hyperparameters if not free and subject.arguments.get(name, name) not in signature
        ]

    def build(self, parameters: Any, **changes: Any) -> Any:
        """Return an optimizer over parameters or groups, with the card's defaults but for some changes."""
        given = {**self.subject.hyperparameters, **changes}
        named = {self.subject.arguments.get(name, name): value for name, value in given.items()
                 if name not in self.refused}  # fmt: skip
        kwargs = {k: tuple(v) if isinstance(v, list) else v for k, v in {**named, **self.subject.kwargs}.items()}
        with quiet():
            built = self.made(parameters, **kwargs)
            if self.subject.train_mode:
                built.train()
        return built

    def given(self, scene: Scene) -> dict[str, Any]:
        """Return the hyperparameters of a scene, by the card's names."""
        decay = {"weight_decay": scene.weight_decay} if "weight_decay" in self.subject.hyperparameters else {}
        return {**self.subject.hyperparameters, **decay}

    def walk(self, scene: Scene) -> list[Tensor]:
        """Return the weights after each step of the implementation."""
        weights = torch.nn.Parameter(at.start(scene).to(getattr(torch, scene.dtype)))
        optimizer = self.build([weights], **self.given(scene))
        path = []
        for step in range(1, STEPS[-1] + 1):
            here = weights.detach().double()
            weights.grad = at.gradient(scene, here, step).to(weights)
            if scene.falls:
                for group in optimizer.param_groups:
                    group["lr"] = at.rate(scene, self.subject.hyperparameters["lr"], step)
            with quiet():
                optimizer.step()
            path.append(weights.detach().double().clone())
        return path

    def wanted(self, method: Method, scene: Scene) -> list[Tensor]:
        """Return the weights after each step of a method in float64."""
        lr = self.subject.hyperparameters["lr"]
        return follow(
            method, at.start(scene), lambda theta, step: at.gradient(scene, theta, step), STEPS[-1], self.given(scene),
            (lambda step: at.rate(scene, lr, step)) if scene.falls else None,
        )  # fmt: skip

    def scene(self, scene: Scene) -> tuple[Measured, list[Tensor] | None]:
        """Measure one scene."""
        bits = 32 if scene.even else self.subject.bits.get(scene.name, 32)
        begin, wanted = at.start(scene).double(), self.wanted(METHODS[self.subject.optimizer], scene)
        try:
            path = self.walk(scene)
        except Exception as error:  # whatever somebody else's code does
            return Measured(scene.name, scene.words, None, None, 0.0, bits, _line(error)), None
        worst, step, allowed = 0.0, STEPS[0], 0.0
        for each in STEPS:
            limit = _allowed(bits, scene) + self.subject.coarse + at.rounding(scene, wanted, begin, each)
            found = at.share(path, wanted, begin, each)
            if each == STEPS[0] or found / limit > worst / allowed:
                worst, step, allowed = found, each, limit
        return Measured(scene.name, scene.words, worst, step, allowed, bits), path

    def suspect(self, paths: Mapping[str, list[Tensor]]) -> str | None:
        """Return what fits the paths that deviate, in words; what is quantised may go a way of its own."""
        whole = self._fitting(paths)
        narrow = {name: path for name, path in paths.items() if self.subject.bits.get(name, 32) < 32}
        if whole is not None or not narrow or len(narrow) == len(paths):
            return whole
        found = self._fitting(narrow)
        return None if found is None else f"{found}, where its state is quantised"

    def _fitting(self, paths: Mapping[str, list[Tensor]]) -> str | None:
        known = {scene.name: scene for scene in SCENES}

        def near(name: str, path: list[Tensor], other: list[Tensor]) -> bool:
            begin = at.start(known[name]).double()
            limit = max(_SUSPECT, _allowed(self.subject.bits.get(name, 32), known[name])) + at.rounding(
                known[name], other, begin, STEPS[-1]
            )
            # A step that is far too long grows without bound, and every rounding with it.
            tame = [step for step in STEPS if float(other[step - 1].norm()) < 100 * (1 + float(begin.norm()))]
            return all(at.share(path, other, begin, step) <= limit for step in tame or STEPS[:1])

        own = self.subject
        return matching(
            dict(paths), lambda method, name: self.wanted(method, known[name]),
            suspects(own.optimizer, own.decay, own.ancestors), near,
        )  # fmt: skip

    # -- what trainings do ---------------------------------------------------------------------------------------

    def checks(self) -> list[Checked]:
        """Return what was found of groups, saving, missing and broken gradients."""
        named = [("parameter groups", self._groups), (RESUMED, lambda: self.resumed(self.saved())),
                 ("a missing gradient", self._missing), ("zero_grad", self._zeroed),
                 ("a NaN gradient", self._broken)]  # fmt: skip
        if self.subject.sparse:
            named.append(("sparse gradients", self._sparse))
        return [_checked(name, check) for name, check in named if name not in self.subject.leaves_out]

    def _weights(self, count: int) -> list[torch.nn.Parameter]:
        generator = torch.Generator().manual_seed(3)
        return [torch.nn.Parameter(torch.randn(24, 32, generator=generator)) for _ in range(count)]

    def _step(self, optimizer: Any, weights: list[torch.nn.Parameter], step: int) -> None:
        generator = torch.Generator().manual_seed(100 + step)
        for weight in weights:
            weight.grad = 0.1 * weight.detach() + 0.05 * torch.randn(weight.shape, generator=generator)
        with quiet():
            optimizer.step()

    def _groups(self) -> str | None:
        lr = self.subject.hyperparameters["lr"]
        weights = self._weights(2)
        weights[1].data = weights[0].data.clone()
        begin = weights[0].detach().clone()
        optimizer = self.build([{"params": [weights[0]]}, {"params": [weights[1]], "lr": lr / 10}])
        for _ in range(2):  # some begin to move with the second
            for weight in weights:
                weight.grad = torch.ones_like(weight)
            with quiet():
                optimizer.step()
        ways = [float((weight.detach() - begin).norm()) for weight in weights]
        if not ways[0] or ways[1] > 0.9 * ways[0]:
            return "takes the first group's learning rate for all"
        return None

    def saved(self) -> bytes:
        """Return a run that stopped half way: its weights, its optimizer's state, and where it would have come to."""
        whole, half = self._weights(1), self._weights(1)
        first, second = self.build(whole), self.build(half)
        for step in range(STOP):
            self._step(first, whole, step)
            self._step(second, half, step)
        for step in range(STOP, 2 * STOP):
            self._step(first, whole, step)
        file = io.BytesIO()
        torch.save({"weights": half[0].detach(), "state": second.state_dict(), "end": whole[0].detach()}, file)
        return file.getvalue()

    def resumed(self, run: bytes) -> str | None:
        """Return how a run that goes on differs from one that did not stop, None where it does not.

        Args:
            run: What `saved` returned, here or in another process.
        """
        told = torch.load(io.BytesIO(run), weights_only=False)
        weights = [torch.nn.Parameter(told["weights"])]
        optimizer = self.build(weights)
        optimizer.load_state_dict(told["state"])
        for step in range(STOP, 2 * STOP):
            self._step(optimizer, weights, step)
        off = float((told["end"] - weights[0].detach()).norm() / told["end"].norm())
        return f"goes on otherwise than if it had not stopped, by {off:.1e} of the weights" if off > 1e-6 else None

    def _missing(self) -> str | None:
        weights = self._weights(2)
        optimizer = self.build(weights)
        before = weights[1].detach().clone()
        weights[0].grad = torch.ones_like(weights[0])
        with quiet():
            optimizer.step()
        return None if torch.equal(weights[1].detach(), before) else "moves a weight that has no gradient"

    def _zeroed(self) -> str | None:
        weights = self._weights(1)
        optimizer = self.build(weights)
        self._step(optimizer, weights, 0)
        optimizer.zero_grad(set_to_none=True)
        return None if weights[0].grad is None else "keeps the gradients"

    def _broken(self) -> str | None:
        weights = self._weights(2)
        optimizer = self.build(weights)
        self._step(optimizer, weights, 0)
        weights[0].grad = torch.full_like(weights[0], float("nan"))
        weights[1].grad = torch.ones_like(weights[1])
        with quiet():
            optimizer.step()
        spread = not bool(torch.isfinite(weights[1]).all())
        return "spreads to the weights whose gradient is sound" if spread else None

    def _sparse(self) -> str | None:
        dense, table = self._weights(1)[0], torch.nn.Embedding(24, 32, sparse=True)
        table.weight.data = dense.data.clone()
        decay = {"weight_decay": 0.0} if "weight_decay" in self.subject.hyperparameters else {}
        one, other = self.build([dense], **decay), self.build(table.parameters(), **decay)
        rows = torch.tensor([1, 5, 5])
        for step in range(3):
            table.weight.grad = None
            (table(rows) * (1 + step)).sum().backward()
            dense.grad = table.weight.grad.to_dense()
            with quiet():
                one.step()
                other.step()
        off = float((dense - table.weight).detach().norm() / dense.detach().norm())
        return f"steps otherwise than with dense ones, by {off:.1e} of the weights" if off > 1e-5 else None


def _checked(name: str, check: Callable[[], str | None]) -> Checked:
    try:
        wrong = check()
    except Exception as error:  # whatever somebody else's code does
        return Checked(name, "fails", _line(error))
    return Checked(name, "differs" if wrong else "ok", wrong or "works")


def _line(error: Exception) -> str:
    first = str(error).splitlines()[0] if str(error) else ""
    return f"{type(error).__name__}: {first}"[:200]


def _allowed(bits: int, scene: Scene) -> float:
    """Return the share that is still the same method: by the bits of the state, and of the weights.

    Measured on sound implementations: at most 3e-5 at 32 bits, 3.2e-2 at 8 and 0.38 at 4; with bf16 weights the moments
    are bf16 too, which costs up to 0.15.
    """
    state = {32: _SAME, 8: 5e-2, 4: 0.45}.get(bits, _SAME)
    return max(state, 0.25) if scene.dtype != "float32" else state


@contextlib.contextmanager
def quiet() -> Any:
    """Keep what libraries print when they are built or stepped out of the answer, and compile nothing."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        with torch.compiler.set_stance("force_eager"):
            yield


def one_thread() -> None:
    """Keep to one thread: on small tensors more only wait for each other."""
    torch.set_num_threads(1)


def audit(subject: Subject, made: type[torch.optim.Optimizer]) -> dict[str, Any]:
    """Return everything that was found of an implementation, as plain data.

    Args:
        subject: What it should be.
        made: Its class.
    """
    auditor = Auditor(subject, made)
    scenes = [scene for scene in SCENES if not subject.matrices or len(scene.shape) == 2]
    scenes = [scene for scene in scenes if scene.name not in subject.leaves_out]
    scenes = [scene for scene in scenes if scene.weight_decay == 0 or "weight_decay" in subject.hyperparameters]
    scenes = [scene for scene in scenes if not scene.even or min(subject.bits.values(), default=32) < 32]
    measured, deviating = [], {}
    for scene in scenes:
        found, path = auditor.scene(scene)
        measured.append(found)
        if path is not None and found.share is not None and found.share > found.allowed and scene.dtype == "float32":
            deviating[scene.name] = path
    checks = auditor.checks()
    sound = any(check.name == RESUMED and check.verdict == "ok" for check in checks)
    return {
        "scenes": [found._asdict() for found in measured],
        "checks": [check._asdict() for check in checks],
        "suspect": auditor.suspect(deviating) if deviating else None,
        "refused": auditor.refused,
        "run": base64.b64encode(auditor.saved()).decode() if sound else None,
    }


def go_on(subject: Subject, made: type[torch.optim.Optimizer], run: str) -> dict[str, Any]:
    """Return what was found of a run that another process saved, as plain data.

    Args:
        subject: What it should be.
        made: Its class.
        run: What `audit` returned under "run".
    """
    auditor = Auditor(subject, made)
    return _checked(RESUMED_ELSEWHERE, lambda: auditor.resumed(base64.b64decode(run)))._asdict()
