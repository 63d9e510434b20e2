"""The network that is trained, and the folder it ends in: what an audit loads is what was trained."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import conv_model
from safetensors.torch import save_file
from torch import nn

from shortcut_audit.errors import AuditError, ModelError, SettingsError
from shortcut_audit.models.loading import ModelRequest, load_model, preprocessing_of
from shortcut_audit.models.small import small_cnn
from shortcut_audit.training.settings import train_settings_from
from shortcut_audit.training.subject import ModelChoice, Subject, build_subject, write_subject

FACTORY = "shortcut_audit.models.small:small_cnn"
CPU = torch.device("cpu")
NAMES = ["ant", "bee", "cow", "été"]
FACTORIES = """
import torch
from torch import nn

class View(nn.Module):
    def __init__(self, num_classes=4):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4 * 16 * 16, num_classes)
    def forward(self, x):
        return self.head(self.conv(x).view(len(x), -1))

def ten(): return View(10)
class Extra(View):
    def get_extra_state(self): return {"a": 1}
    def set_extra_state(self, state): pass
"""


def build(spec: str, shape: tuple[int, int, int] | None = (3, 32, 32), **options: Any) -> Subject:
    fields = {"arch", "checkpoint", "size", "mean", "std"}
    choice = ModelChoice(spec=spec, **{k: v for k, v in options.items() if k in fields})
    settings = train_settings_from({k: v for k, v in options.items() if k not in fields})
    return build_subject(choice, settings, 4, shape, CPU)


def loaded_by(command: str) -> tuple[nn.Module, Any]:
    """The network and preprocessing that the printed audit command gives, for images of 32 x 32."""
    words = shlex.split(command)
    options = dict(zip(words[2::2], words[3::2], strict=True))
    checkpoint = options.get("--checkpoint")
    loaded = load_model(
        ModelRequest(
            spec=options["--model"], checkpoint=Path(checkpoint) if checkpoint else None, n_classes=4
        )
    )
    size = options.get("--size")
    moments = {
        name: tuple(float(value) for value in options[f"--{name}"].split(","))
        for name in ("mean", "std")
        if f"--{name}" in options
    }
    sides = tuple(int(side) for side in size.split("x")) if size else None
    return loaded.network, preprocessing_of(loaded, (3, 32, 32), size=sides, **moments)


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        ("timm:test_resnet", {}),
        ("test_resnet", {"size": (24, 40), "mean": (0.1, 0.2, 0.3), "std": (0.5,)}),
        ("timm:test_efficientnet", {}),
        ("timm:test_vit", {}),
        ("timm:test_vit", {"size": (48, 48)}),
        ("timm:test_convnext", {"channels_last": False}),
        ("timm:mixer_s32_224", {}),
        (FACTORY, {}),
        (FACTORY, {"size": (24, 24), "mean": (0.25,), "std": (0.125, 0.5, 0.25)}),
    ],
)
def test_an_audit_loads_what_was_trained(spec: str, options: dict[str, Any], tmp_path: Path) -> None:
    subject = build(spec, **options)
    with torch.no_grad():
        for value in [*subject.network.parameters(), *subject.network.buffers()]:
            if value.is_floating_point():
                value.add_(0.01 * torch.rand(value.shape, generator=torch.Generator().manual_seed(1)))
    folder = tmp_path / "the model"
    folder.mkdir()
    write_subject(subject, NAMES, folder)
    network, preprocessing = loaded_by(subject.audit_command(folder, "x.npz"))
    ours = subject.preprocessing.model_dump(exclude={"source"})
    assert preprocessing.model_dump(exclude={"source"}) == ours
    images = torch.rand(2, preprocessing.channels, preprocessing.height, preprocessing.width)
    with torch.no_grad():
        expected = subject.network.eval()(images)
        assert expected.shape == (2, 4)
        assert torch.equal(network.eval()(images), expected)


def test_the_saved_record_says_how_the_images_were_made_ready(tmp_path: Path) -> None:
    write_subject(build("timm:test_resnet"), NAMES, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == "test_resnet"
    assert config["num_classes"] == 4
    assert config["label_names"] == NAMES
    assert config["pretrained_cfg"]["input_size"] == [3, 32, 32]
    assert config["pretrained_cfg"]["crop_pct"] == 1.0
    # Images of another size: the audit resizes them without cropping, as the training would.
    loaded = load_model(ModelRequest(spec=f"local-dir:{tmp_path}"))
    found = preprocessing_of(loaded, (3, 50, 50))
    expected = build("timm:test_resnet", (3, 50, 50), size=(32, 32)).preprocessing
    assert found.model_dump(exclude={"source"}) == expected.model_dump(exclude={"source"})
    assert found.geometry == "resize and crop"


@pytest.mark.parametrize(
    ("spec", "shape", "size", "expected"),
    [
        ("timm:test_resnet", (3, 20, 28), None, (20, 28)),
        ("timm:test_resnet", (3, 20, 28), (64, 64), (64, 64)),
        ("timm:test_resnet", None, None, (160, 160)),
        (FACTORY, (3, 20, 28), None, (32, 32)),
        (FACTORY, (3, 20, 28), (16, 16), (16, 16)),
    ],
)
def test_the_size_is_the_users_else_the_images_or_the_models(
    spec: str, shape: tuple[int, int, int] | None, size: Any, expected: tuple[int, int]
) -> None:
    pre = build(spec, shape, size=size).preprocessing
    assert (pre.height, pre.width) == expected


def test_weights_are_drawn_from_the_seed() -> None:
    digests = [build("timm:test_resnet", seed=seed).digest for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


def test_a_trained_folder_can_be_trained_on(tmp_path: Path) -> None:
    first = build("timm:test_vit")
    write_subject(first, NAMES, tmp_path)
    again = build(f"local-dir:{tmp_path}")
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again.network.eval()(images), first.network.eval()(images))
    # Another number of classes takes a new head, and keeps the rest.
    settings = train_settings_from({})
    other = build_subject(ModelChoice(spec=f"local-dir:{tmp_path}"), settings, 7, (3, 32, 32), CPU)
    assert other.network.num_classes == 7
    assert torch.equal(other.network.patch_embed.proj.weight, first.network.patch_embed.proj.weight)
    # Another size: weights are adapted, and what is saved is what is trained.
    larger = build(f"local-dir:{tmp_path}", size=(48, 48))
    (tmp_path / "larger").mkdir()
    write_subject(larger, NAMES, tmp_path / "larger")
    network, _ = loaded_by(larger.audit_command(tmp_path / "larger", "x"))
    images = torch.rand(2, 3, 48, 48)
    with torch.no_grad():
        assert torch.equal(network.eval()(images), larger.network.eval()(images))


def test_weights_that_bear_one_size_only_are_not_bent(tmp_path: Path) -> None:
    write_subject(build("timm:mixer_s32_224"), NAMES, tmp_path)
    assert build(f"local-dir:{tmp_path}").preprocessing.height == 32
    with pytest.raises(ModelError, match="32 x 32, and cannot be made for 64 x 64.*--size 32"):
        build(f"local-dir:{tmp_path}", size=(64, 64))


def test_a_factory_starts_from_its_checkpoint(tmp_path: Path) -> None:
    weights = {name: value + 1 for name, value in small_cnn(4).state_dict().items()}
    save_file(weights, tmp_path / "w.safetensors")
    subject = build(FACTORY, checkpoint=tmp_path / "w.safetensors")
    assert torch.equal(subject.network.head.bias, weights["head.bias"])
    subject = build(str(tmp_path / "w.safetensors"), arch=FACTORY)
    assert torch.equal(subject.network.head.bias, weights["head.bias"])
    assert "--checkpoint" in subject.audit_command(tmp_path, "x")


def test_a_network_that_views_is_trained_in_the_plain_layout(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(FACTORIES)
    assert build(f"{tmp_path}/nets.py:View", (3, 16, 16)).layout is torch.contiguous_format
    assert build(FACTORY).layout is torch.channels_last
    assert build(FACTORY, channels_last=False).layout is torch.contiguous_format


def test_tied_weights_are_written_twice_and_read_back(tmp_path: Path) -> None:
    network = conv_model(4, 3)
    network.add_module("7", network[-1])
    subject = build(FACTORY)
    object.__setattr__(subject, "network", network)
    write_subject(subject, NAMES, tmp_path)
    other = conv_model(4, 3, seed=5)
    other.add_module("7", other[-1])
    from shortcut_audit.models.loading import load_weights

    load_weights(other, tmp_path / "model.safetensors")
    assert torch.equal(other[-1].weight, network[-1].weight)


@pytest.mark.parametrize(
    ("spec", "options", "kind", "said"),
    [
        ("timm:resnet_no", {}, ModelError, "timm has no model"),
        ("timm:inception_v3", {}, ModelError, "cannot take 2 images of 3 channels and 32 x 32"),
        ("timm:test_vit", {"size": (8, 8)}, ModelError, "divisible by patch size .16..*--size"),
        ("nets.py:ten", {"size": (16, 16)}, ModelError, "10 outputs and the images 4 classes"),
        ("nets.py:none", {}, ModelError, "has no function 'none'"),
        (FACTORY, {"pretrained": True}, SettingsError, "--pretrained goes with a timm name"),
        (FACTORY, {"mean": (0.1, 0.2)}, ModelError, "mean has 2 values"),
        ("timm:test_resnet", {"checkpoint": Path("x.pt")}, ModelError, "--checkpoint goes with"),
        ("gone.safetensors", {"arch": FACTORY}, ModelError, "does not exist"),
        ("local-dir:gone", {}, ModelError, "gone is not a folder"),
    ],
)
def test_what_cannot_be_built_ends_in_one_sentence(
    spec: str,
    options: dict[str, Any],
    kind: type[AuditError],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(FACTORIES)
    with pytest.raises(kind, match=said) as caught:
        build(spec, **options)
    assert "\n" not in str(caught.value)


def test_a_state_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(FACTORIES)
    subject = build(f"{tmp_path}/nets.py:Extra", (3, 16, 16))
    with pytest.raises(ModelError, match="something other than a tensor"):
        write_subject(subject, NAMES, tmp_path)
