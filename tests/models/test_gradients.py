"""Gradients of lent models: right, without a trace on the model, and told of where there are none."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import timm
import torch
from conftest import conv_model
from lending import CPU, lend, restless, state_of
from torch import Tensor, nn

from shortcut_audit.models.classifier import Classifier, borrowed, why_no_gradient
from shortcut_audit.results.provenance import Preprocessing

SHAPE = (3, 6, 7)


def timm_model(name: str, **more: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model(name, num_classes=5, **more)
        # As they come, heads of zeros and scales of 1e-6 hide whatever goes wrong below them.
        for parameter in network.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        return network


def recurrent_norm() -> nn.Module:
    """A parametrised weight, statistics of a batch long gone, and no convolution."""
    head = nn.utils.parametrizations.weight_norm(nn.Linear(3 * 6 * 7, 4))
    norm = nn.BatchNorm2d(3)
    norm(torch.rand(9, *SHAPE, generator=torch.Generator().manual_seed(1)))
    return nn.Sequential(norm, nn.Flatten(), nn.Dropout(0.3), head, nn.Softplus())


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "convolutions, batch norm, dropout": (lambda: conv_model(4, 3).train(), SHAPE),
    "parametrised weights": (recurrent_norm, SHAPE),
    "vision transformer": (
        lambda: timm_model("vit_tiny_patch16_224", img_size=16, patch_size=8, depth=2, drop_rate=0.2),
        (3, 16, 16),
    ),
    "convnext": (
        lambda: timm_model(
            "convnext_atto", depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), drop_path_rate=0.2
        ),
        (3, 32, 32),
    ),
}


def lend_any(network: nn.Module, dtype: str = "float64") -> Any:
    pre = Preprocessing(
        channels=3, height=1, width=1, geometry="", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.5), source=""
    )
    return borrowed(network, pre, CPU, dtype, 0)


def gradient_of(classifier: Classifier, images: Tensor, mixture: Tensor) -> Tensor:
    with classifier.gradients():
        pixels = images.clone().to(classifier.dtype).requires_grad_()
        (gradient,) = torch.autograd.grad((classifier(pixels) * mixture.clone().to(pixels)).sum(), pixels)
    return gradient


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_the_finite_differences_of_the_answers(name: str) -> None:
    build, shape = MODELS[name]
    network = build()
    before = state_of(network)
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(3, *shape, generator=generator, dtype=torch.float64)
    with lend_any(network) as classifier:
        assert why_no_gradient(classifier, shape) == ""
        mixture = torch.randn(1, classifier(images).shape[1], generator=generator, dtype=torch.float64)
        gradient = gradient_of(classifier, images, mixture)
        for _ in range(4):
            step = torch.randn(images.shape, generator=generator, dtype=torch.float64) * 1e-6
            ends = [(classifier(images + sign * step) * mixture).sum() for sign in (1, -1)]
            expected = (ends[0] - ends[1]) / 2
            torch.testing.assert_close((gradient * step).sum(), expected, rtol=1e-5, atol=1e-12)
    assert state_of(network) == before


@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.99999), ("bfloat16", 0.98)])
def test_gradients_in_other_precisions_are_near(dtype: str, least: float) -> None:
    generator = torch.Generator().manual_seed(3)
    images, mixture = torch.rand(4, *SHAPE, generator=generator), torch.randn(1, 4, generator=generator)
    network = conv_model(4, 3)
    with lend(network, "float64") as classifier:
        exact = gradient_of(classifier, images, mixture).flatten()
    with lend(network, dtype) as classifier:
        assert why_no_gradient(classifier, SHAPE) == ""
        near = gradient_of(classifier, images, mixture).flatten().double()
    assert torch.cosine_similarity(near, exact, dim=0) > least


@pytest.mark.parametrize("fails", [False, True])
def test_flags_and_gradients_of_weights_are_left_as_found(fails: bool) -> None:
    network = restless()
    network.register_buffer("learned", torch.ones(3, requires_grad=True))
    before = state_of(network)

    def use() -> None:
        with lend(network) as classifier:
            assert not any(tensor.requires_grad for tensor in [*network.parameters(), *network.buffers()])
            gradient_of(classifier, torch.rand(2, *SHAPE), torch.ones(1, 4))
            assert torch.is_inference_mode_enabled()
            if fails:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) if fails else nullcontext():
        use()
    assert state_of(network) == before
    assert network.learned.requires_grad


def test_classifier_is_made_of_normal_tensors_whatever_mode_the_caller_is_in() -> None:
    network = conv_model(4, 3)
    with torch.inference_mode(), lend(network) as classifier:
        tensors = [classifier.mean, classifier.std, *network.parameters(), *network.buffers()]
        tensors += [value for value in vars(classifier.normalize).values() if isinstance(value, Tensor)]
        assert len(tensors) >= 10
        assert not any(tensor.is_inference() for tensor in tensors)
        assert why_no_gradient(classifier, SHAPE) == ""


def test_weights_made_under_inference_mode_have_gradients_and_are_given_back() -> None:
    with torch.inference_mode():
        network = nn.Sequential(conv_model(4, 3), nn.BatchNorm1d(4))
    network.append(network[0][1])  # shared
    del network[2]
    before = [id(tensor) for tensor in [*network.parameters(), *network.buffers()]]
    with lend(network) as classifier:
        assert why_no_gradient(classifier, SHAPE) == ""
        classifier(torch.rand(2, *SHAPE))
    after = [*network.parameters(), *network.buffers()]
    assert [id(tensor) for tensor in after] == before
    assert all(tensor.is_inference() for tensor in after)
    assert all(parameter.requires_grad for parameter in network.parameters())


class Caching(nn.Module):
    """Keeps what it computed for a size of images wherever a module can keep a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.body = conv_model(4, 3)
        self.register_buffer("mask", None)
        self.table: dict[Any, Tensor] = {}
        self.steps: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        if not self.steps:
            self.mask = torch.rand(6, 7)
            self.table[images.shape[1:]] = torch.rand(6, 7)
            self.steps.append(torch.rand(6, 7))
            self.own = torch.rand(6, 7)
        images = images * self.mask * self.table[images.shape[1:]] * self.steps[0] * self.own
        logits: Tensor = self.body(images)
        return logits


def test_what_a_model_cached_under_inference_mode_does_not_stand_in_the_way() -> None:
    network = Caching()
    with lend(network, "float32") as classifier:
        before = classifier(torch.ones(1, *SHAPE)).clone()
        assert network.own.is_inference()
        assert why_no_gradient(classifier, SHAPE) == ""
        torch.testing.assert_close(classifier(torch.ones(1, *SHAPE)), before)
    assert not network.table
    assert not network.steps
    assert not hasattr(network, "own")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.torch.jit:FutureWarning")
def test_a_scripted_model_has_gradients() -> None:
    scripted = torch.jit.script(conv_model(4, 3).eval())
    images, mixture = torch.rand(2, *SHAPE), torch.rand(1, 4)
    with lend(conv_model(4, 3)) as plain:
        expected = gradient_of(plain, images, mixture)
    with lend(scripted) as classifier:
        assert why_no_gradient(classifier, SHAPE) == ""
        torch.testing.assert_close(gradient_of(classifier, images, mixture), expected)
    assert all(parameter.requires_grad for parameter in scripted.parameters())


# Models without a gradient ------------------------------------------------------------------------


class Then(nn.Module):
    """A network with something at its end."""

    def __init__(
        self, end: Callable[[Tensor], Any], before: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.body = conv_model(4, 3)
        self.end, self.before = end, before

    def forward(self, images: Tensor) -> Any:
        return self.end(self.body(images if self.before is None else self.before(images)))


class Stuck(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        raise NotImplementedError("no way back.\nReally.")


class Full(Stuck):
    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        raise torch.OutOfMemoryError("CUDA out of memory")


def overwritten(x: Tensor) -> Tensor:
    answer = x.exp()
    x = answer * 1
    answer += 1
    return x


CUT = "does not depend on the pixels through differentiable steps: they are cut off by"
ZERO = "through differentiable steps: the gradient of every logit is exactly zero"
WITHOUT: dict[str, tuple[nn.Module, str]] = {
    "no_grad": (Then(torch.no_grad()(lambda x: x * 1)), "runs without autograd (torch.no_grad or"),
    "inference_mode": (
        Then(torch.inference_mode()(lambda x: x * 1)),
        "its forward runs without autograd",
    ),
    "detach": (Then(lambda x: x.detach() + 1), CUT),
    "an array on the way": (Then(lambda x: x, lambda x: torch.from_numpy(x.detach().numpy()) + 1), CUT),
    "the class it decides on": (Then(lambda x: nn.functional.one_hot(x.argmax(1), 4).float()), CUT),
    "numpy of its own": (Then(lambda x: torch.from_numpy(x.numpy())), "answers through numpy"),
    "rounded pixels": (Then(lambda x: x, lambda x: (x * 255).round() / 255), ZERO),
    "a step": (Then(lambda x: torch.sign(x)), ZERO),
    "a constant": (Then(lambda x: x * 0), ZERO),
    "a root of nothing": (Then(lambda x: (x - x.detach()).sqrt()), "has NaN or infinite values"),
    "no way back": (Then(Stuck.apply), "its gradient fails with NotImplementedError: no way back"),
    "no room": (Then(Full.apply), "memory does not hold its backward pass"),
    "a value overwritten": (
        Then(overwritten),
        "its gradient fails with RuntimeError: one of the variables",
    ),
    "no logits": (Then(lambda x: (x, x)), "fails with LogitsError: The model returns a tuple"),
    "another size": (Then(lambda x: x, lambda x: x[:, :2]), "fails with RuntimeError: "),
    "its own refusal": (Then(lambda x: x.nothing), "AttributeError: 'Tensor' object has no attribute"),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_a_model_without_a_gradient_says_why_in_one_clause(name: str) -> None:
    network, reason = WITHOUT[name]
    before = state_of(network)
    with lend(network) as classifier:
        told = why_no_gradient(classifier, SHAPE)
        assert torch.is_inference_mode_enabled()
    assert reason in told
    assert "\n" not in told
    assert not told.endswith(".")
    assert state_of(network) == before


@pytest.mark.parametrize("fails", [False, True])
def test_asking_leaves_nothing_behind_on_model_or_random_state(fails: bool) -> None:
    network = restless()
    with lend(network) as classifier:
        network.fail = fails
        before = state_of(network)
        told = why_no_gradient(classifier, SHAPE)
        assert ("in the middle of it" in told) == fails
        assert (told == "") != fails
        assert state_of(network) == before


def test_nothing_is_kept_alive_by_asking() -> None:
    seen: list[weakref.ref[Tensor]] = []
    network = Then(lambda x: seen.append(weakref.ref(x)) or x)
    with lend(network) as classifier:
        assert why_no_gradient(classifier, SHAPE) == ""
    assert seen
    assert all(reference() is None for reference in seen)


def test_a_model_whose_gradient_is_zero_on_some_images_only_has_one() -> None:
    network = Then(lambda x: x * (torch.arange(len(x))[:, None] % 2))
    with lend(network) as classifier:
        assert why_no_gradient(classifier, SHAPE) == ""
