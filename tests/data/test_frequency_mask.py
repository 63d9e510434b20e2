from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import conv_model, random_images
from kornia.augmentation import AugmentationSequential, RandomHorizontalFlip
from replicas import keep_bins
from torch import nn

import shortcut_audit as sa
from shortcut_audit.data.frequency_mask import FrequencyMask
from shortcut_audit.errors import SettingsError
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.mask_text import parse_mask
from shortcut_audit.fourier.masks import half_plane_mask

SIZE = (12, 9)
GRID = FrequencyGrid(*SIZE)
GENERATOR = np.random.default_rng(0)
MANY = GENERATOR.random((5, GRID.n_orbits)) < 0.4
IMAGES = torch.from_numpy(GENERATOR.random((4, 3, *SIZE)))


def replica(image: torch.Tensor, left: np.ndarray) -> np.ndarray:
    """What the full complex transform leaves of one image under a choice of orbits."""
    pairs = zip(GRID.rows[left].tolist(), GRID.columns[left].tolist(), strict=True)
    return keep_bins(image.numpy(), {each for u, v in pairs for each in ((u, v), (-u, -v))})


def full_plane(chosen: np.ndarray) -> np.ndarray:
    plane = np.zeros(SIZE, dtype=chosen.dtype)
    for orbit, value in enumerate(chosen):
        u, v = GRID.rows[orbit], GRID.columns[orbit]
        plane[u, v] = plane[-u, -v] = value
    return plane


@pytest.mark.parametrize("form", ["orbits", "half", "full", "tensor", "weights", "text"])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("dc", ["keep", "drop", "mask"])
def test_a_mask_of_any_form_is_the_same_filter(form: str, keep: bool, dc: str) -> None:
    text = "radius:-2 + angle:10-40"
    chosen = parse_mask(text, GRID)
    half = half_plane_mask(GRID, chosen)
    mask: Any = {
        "orbits": chosen,
        "half": half.numpy(),
        "full": full_plane(chosen),
        "tensor": half,
        "weights": half.double(),
        "text": text,
    }[form]
    left = chosen.copy() if keep else ~chosen
    if dc != "mask":
        left[0] = dc == "keep"
    found = FrequencyMask(mask, SIZE, keep=keep, dc=dc)(IMAGES)
    assert found.dtype == IMAGES.dtype
    for image, ours in zip(IMAGES, found, strict=True):
        np.testing.assert_allclose(ours, replica(image, left), atol=1e-12)


def test_weights_between_scale_what_they_lie_on() -> None:
    weights = GENERATOR.random(GRID.n_orbits)
    found = FrequencyMask(weights, SIZE, dc="mask")(IMAGES[:1])[0]
    spectrum = np.fft.fft2(IMAGES[0].numpy())
    expected = np.fft.ifft2(spectrum * full_plane(weights))
    assert np.abs(expected.imag).max() < 1e-12
    np.testing.assert_allclose(found, expected.real, atol=1e-7)


def test_each_image_gets_the_mask_that_is_named_for_it() -> None:
    module = FrequencyMask(MANY, SIZE, dc="mask")
    labels = torch.tensor([3, 0, 4, 3])
    for image, label, ours in zip(IMAGES, labels, module(IMAGES, mask_index=labels), strict=True):
        np.testing.assert_allclose(ours, replica(image, MANY[label]), atol=1e-12)
    params = {"mask_index": labels}
    torch.testing.assert_close(module(IMAGES, params=params), module(IMAGES, mask_index=labels))
    with pytest.raises(SettingsError, match="no mask 5 among 5"):
        module(IMAGES, mask_index=torch.tensor([0, 1, 2, 5]))
    with pytest.raises(SettingsError, match="no mask -1 among 5"):
        module(IMAGES, mask_index=torch.tensor([0, 1, 2, -1]))
    with pytest.raises(SettingsError, match="3 masks for 4 images"):
        module(IMAGES, mask_index=torch.tensor([0, 1, 2]))


def test_a_mask_is_drawn_for_each_image_or_for_all_and_can_be_drawn_again() -> None:
    torch.manual_seed(0)
    images = IMAGES[:1].expand(64, -1, -1, -1)
    module = FrequencyMask(MANY, SIZE, dc="mask")
    found = module(images)
    drawn = module._params["mask_index"]
    assert set(drawn.tolist()) == set(range(5))
    for ours, index in zip(found, drawn, strict=True):
        np.testing.assert_allclose(ours, replica(images[0], MANY[index]), atol=1e-12)
    torch.testing.assert_close(module(images, params=module._params), found, rtol=0, atol=0)
    one = FrequencyMask(MANY, SIZE, same_on_batch=True)
    indices = set()
    for _ in range(30):
        found = one(images)
        assert (found == found[:1]).all()
        indices.add(int(one._params["mask_index"][0]))
    assert len(indices) > 1


@pytest.mark.parametrize("mask", ["many", "sampler"])
def test_a_share_of_the_images_is_filtered_and_the_others_are_left_alone(mask: str) -> None:
    torch.manual_seed(0)
    images = IMAGES[:1].expand(200, -1, -1, -1)
    chosen: Any = MANY if mask == "many" else lambda n: torch.from_numpy(MANY[np.arange(n) % 5])
    module = FrequencyMask(chosen, SIZE, p=0.3)
    found = module(images)
    untouched = (found == images).flatten(1).all(1)
    assert 110 < int(untouched.sum()) < 170
    assert (untouched == (module._params["batch_prob"] < 0.5)).all()
    torch.testing.assert_close(module(images, params=module._params), found, rtol=0, atol=0)
    assert (FrequencyMask(chosen, SIZE, p=0.0)(images) == images).all()


def test_a_callable_draws_masks_or_their_shape_is_refused() -> None:
    def draw(n: int) -> torch.Tensor:
        return half_plane_mask(GRID, MANY)[torch.arange(n) % 5]

    module = FrequencyMask(draw, SIZE, dc="mask")
    for number, (image, ours) in enumerate(zip(IMAGES, module(IMAGES), strict=True)):
        np.testing.assert_allclose(ours, replica(image, MANY[number % 5]), atol=1e-12)
    same = FrequencyMask(draw, SIZE, dc="mask", same_on_batch=True)(IMAGES)
    np.testing.assert_allclose(same[3], replica(IMAGES[3], MANY[0]), atol=1e-12)
    with pytest.raises(SettingsError, match="drew 1 masks for 4 images"):
        FrequencyMask(lambda n: draw(1), SIZE)(IMAGES)
    with pytest.raises(SettingsError, match="not Hermitian"):
        FrequencyMask(lambda n: torch.rand(n, *SIZE) < 0.5, SIZE)(IMAGES)


def test_a_gradient_reaches_weights_that_are_drawn() -> None:
    weights = torch.full((GRID.n_orbits,), 0.5, requires_grad=True)
    module = FrequencyMask(lambda n: weights[None].expand(n, -1), SIZE)
    module(IMAGES.float()).square().mean().backward()
    assert weights.grad is not None
    assert (weights.grad[1:] > 0).all()


def test_the_map_of_each_images_class(tmp_path: Path) -> None:
    pairs = random_images(8, 3, (3, *SIZE))
    result = sa.audit(conv_model(3, 3), pairs, class_names=["a", "b", "c"], batch_size=64, kept_share=0.2)
    result.save(tmp_path / "run")
    maps = result.arrays["dominant_frequencies/kept"].astype(bool)
    module = FrequencyMask(f"map:{tmp_path}/run:own", SIZE, classes=["c", "a", "b"], dc="mask")
    labels = torch.tensor([0, 1, 2, 0])
    for image, label, ours in zip(IMAGES, [2, 0, 1, 2], module(IMAGES, mask_index=labels), strict=True):
        np.testing.assert_allclose(ours, replica(image, maps[label]), atol=1e-12)


# In pipelines -------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [True, False])
def test_it_is_differentiable(keep: bool) -> None:
    images = IMAGES[:2, :1].clone().requires_grad_()
    assert torch.autograd.gradcheck(FrequencyMask("radius:-3", SIZE, keep=keep), (images,))
    module = FrequencyMask(MANY[:2], SIZE)
    index = torch.tensor([1, 0])
    assert torch.autograd.gradcheck(lambda x: module(x, mask_index=index), (images,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_computed_in_single(dtype: torch.dtype) -> None:
    module, images = FrequencyMask("radius:-3", SIZE), IMAGES.to(dtype)
    found = module(images)
    assert found.dtype == dtype
    assert (found == module(images.float()).to(dtype)).all()
    halved = FrequencyMask("radius:-3", SIZE).to(dtype)
    assert (halved(images) == found).all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert module(IMAGES.float()).dtype == torch.float32
        torch.testing.assert_close(module(IMAGES.float()), module(IMAGES).float())


def test_it_works_in_sequences_of_torch_and_kornia() -> None:
    module = FrequencyMask("radius:-3", SIZE)
    images = IMAGES.float()
    torch.testing.assert_close(nn.Sequential(module, module)(images), module(images))
    masks, boxes = torch.rand(4, 1, *SIZE), torch.tensor([[[1.0, 1, 5, 5]]]).expand(4, -1, -1)
    chain = AugmentationSequential(
        RandomHorizontalFlip(p=1.0), module, data_keys=["input", "mask", "bbox_xyxy"]
    )
    out, out_masks, _ = chain(images, masks, boxes)
    torch.testing.assert_close(out, module(images.flip(-1)))
    torch.testing.assert_close(out_masks, masks.flip(-1))
    many = AugmentationSequential(FrequencyMask(MANY, SIZE, p=0.5), RandomHorizontalFlip(p=0.5))
    torch.manual_seed(0)
    first = many(images)
    torch.testing.assert_close(many(images, params=many._params), first)


@pytest.mark.parametrize("mask", ["text", "many"])
def test_a_compiled_module_does_the_same(mask: str) -> None:
    torch._dynamo.reset()
    module = FrequencyMask(MANY if mask == "many" else "radius:-3", SIZE)
    compiled = torch.compile(module, backend="aot_eager")
    index = torch.tensor([0, 1, 2, 3]) if mask == "many" else torch.zeros(4, dtype=torch.long)
    torch.testing.assert_close(compiled(IMAGES, mask_index=index), module(IMAGES, mask_index=index))
    images = IMAGES.clone().requires_grad_()
    compiled(images, mask_index=index).square().sum().backward()
    assert images.grad is not None
    torch.testing.assert_close(images.grad, 2 * module(IMAGES, mask_index=index))


def test_shapes_of_single_images_and_empty_batches() -> None:
    module = FrequencyMask("radius:-3", SIZE)
    assert module(IMAGES[0]).shape == (1, 3, *SIZE)
    assert FrequencyMask("radius:-3", SIZE, keepdim=True)(IMAGES[0]).shape == (3, *SIZE)
    assert FrequencyMask("radius:-3", SIZE, keepdim=True)(IMAGES[0, 0]).shape == SIZE
    assert module(IMAGES[:0]).shape == (0, 3, *SIZE)
    assert FrequencyMask(MANY, SIZE)(IMAGES[:0]).shape == (0, 3, *SIZE)
    assert module(IMAGES[:, :1]).shape == (4, 1, *SIZE)


def test_values_are_clipped_when_asked_only() -> None:
    plain = FrequencyMask("radius:-3", SIZE, keep=False, dc="drop")(IMAGES)
    assert plain.min() < 0
    clipped = FrequencyMask("radius:-3", SIZE, keep=False, dc="drop", clip=True)(IMAGES)
    torch.testing.assert_close(clipped, plain.clamp(0, 1))


def test_the_mask_is_part_of_the_state_and_of_the_description() -> None:
    module = FrequencyMask("radius:-3", SIZE, keep=False, dc="drop", p=0.5)
    assert list(module.state_dict()) == ["mask"]
    other = FrequencyMask("dc", SIZE, keep=False, dc="drop")
    other.load_state_dict(module.state_dict())
    torch.testing.assert_close(
        other(IMAGES), FrequencyMask("radius:-3", SIZE, keep=False, dc="drop")(IMAGES)
    )
    for part in ("FrequencyMask('radius:-3', 12 x 9", "p=0.5", "keep=False", "dc=drop", "clip=False"):
        assert part in repr(module)
    assert "5 masks" in repr(FrequencyMask(MANY, SIZE))
    for again in (pickle.loads(pickle.dumps(other)), copy.deepcopy(other)):
        torch.testing.assert_close(again(IMAGES), other(IMAGES))
    assert module.to("meta").mask.device.type == "meta"


def test_a_mask_handed_over_can_be_changed_without_harm() -> None:
    for mask in (MANY.copy(), torch.from_numpy(MANY.copy()), half_plane_mask(GRID, MANY)):
        module = FrequencyMask(mask, SIZE)
        before = module.mask.clone()
        mask[:] = False
        assert (module.mask == before).all()


@pytest.mark.parametrize(
    ("mask", "options", "message"),
    [
        (np.ones((12, 8), bool), {}, r"shape \(12, 8\) does not fit 12 x 9 images. Shapes are \(55,\)"),
        (np.ones(54, bool), {}, "does not fit"),
        (np.ones((2, 2, 12, 9), bool), {}, "does not fit"),
        (np.ones((0, 12, 9), bool), {}, "There is no mask"),
        (np.full(55, 1.5), {}, r"outside \[0,1\]"),
        (np.full(55, np.nan), {}, r"outside \[0,1\]"),
        (np.arange(108).reshape(12, 9) == 10, {}, r"not Hermitian.*\(1, 1\) and \(-1, -1\).*Symmetrise"),
        (
            np.arange(60).reshape(12, 5) == 5,
            {},
            "not Hermitian.*column 0, rows 1 and 11 differ.*Symmetrise",
        ),
        ("band:9/4", {}, "no band 9 of 4"),
        ("map:nowhere:own", {}, "holds no audit"),
        (None, {}, "type NoneType"),
        ("dc", {"dc": "maybe"}, "dc 'maybe' is no rule"),
    ],
)
def test_what_is_no_mask_is_refused_in_a_sentence(
    mask: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(sa.AuditError, match=message):
        FrequencyMask(mask, SIZE, **options)


def test_the_cure_for_a_half_plane_works() -> None:
    for width in (8, 9):
        mask = np.random.default_rng(0).random((12, width // 2 + 1)) < 0.5
        with pytest.raises(SettingsError) as caught:
            FrequencyMask(mask, (12, width))
        exec(caught.value.next_step.removeprefix("Symmetrise it: "), {"mask": mask, "np": np})
        FrequencyMask(mask, (12, width))


def test_the_example_on_the_page_runs() -> None:
    page = Path(__file__).parents[2] / "docs" / "filtering.md"
    code = re.search(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {}
    exec(code[1], names)
    assert {names[name].shape for name in ("low", "some", "drawn", "named", "fresh")} == {(8, 3, 32, 32)}


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"of 12 x 9 images, and these have 9 x 12 pixels"):
        FrequencyMask("radius:-3", SIZE)(IMAGES.transpose(2, 3))
