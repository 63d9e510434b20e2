"""Bad input gets one clear sentence, exit code 2 and nothing half-written."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_images, save_npz
from PIL import Image
from safetensors.torch import save_file

from shortcut_audit.cli.main import main
from shortcut_audit.models.small import small_cnn

FACTORY = "shortcut_audit.models.small:small_cnn"
MODELS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=3):
        super().__init__()
        self.head = nn.Linear(3, num_classes)
    def forward(self, x):
        return self.head(x.mean((2, 3)))

class Tuple(Net):
    def forward(self, x):
        return super().forward(x), x

class Unpooled(Net):
    def forward(self, x):
        return x

class Nan(Net):
    def forward(self, x):
        return super().forward(x) * float("nan")

class Detached(Net):
    def forward(self, x):
        return super().forward(x.detach())

class Large(Net):
    def forward(self, x):
        return super().forward(x.reshape(len(x), 3, 64, 64))

def ten(): return Net(10)
def broken(): raise RuntimeError("no weights at home")
def text(): return "model"
"""


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.path}",)


def picture(seed: int) -> bytes:
    content = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, format="PNG")
    return content.getvalue()


def folder_of_images(root: Path, **counts: int) -> Path:
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            (root / name / f"{number}.png").write_bytes(picture(number))
    return root


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good and bad models and images, by name."""
    here = tmp_path_factory.mktemp("inputs")
    save_npz(here / "good.npz", random_images(5, 3, (3, 12, 12)), ["ant", "bee", "cow"])
    (here / "models.py").write_text(MODELS)
    weights = {key: value.contiguous() for key, value in small_cnn(3).state_dict().items()}
    save_file(weights, here / "good.safetensors")
    save_file({**weights, "head.weight": weights["head.weight"] * float("nan")}, here / "nan.safetensors")
    save_file({f"module2.{key}": value for key, value in weights.items()}, here / "other.safetensors")
    save_file(
        {k: torch.zeros(5, 64) if k == "head.weight" else v for k, v in weights.items()},
        here / "shape.safetensors",
    )
    torch.save({"state_dict": weights, "extra": Touch(here / "ran")}, here / "code.pth")
    (here / "cut.safetensors").write_bytes((here / "good.safetensors").read_bytes()[:5000])
    (here / "empty").mkdir()
    (here / "text.txt").write_text("hello")
    (here / "damaged.npz").write_bytes(b"PK\3\4 and no more")
    np.savez(here / "objects.npz", x=np.array([Touch(here / "ran")] * 4, dtype=object), y=[0, 0, 1, 1])
    folder_of_images(here / "one", ant=6)
    folder_of_images(here / "few", ant=6, bee=3, cow=6)
    folder_of_images(here / "two", ant=6, bee=6)
    folder_of_images(here / "hollow", ant=0, bee=0)
    (here / "loose").mkdir()
    (here / "loose" / "1.png").write_bytes(picture(0))
    for kind, content in {"zero": b"", "corrupt": b"no image", "cut": picture(3)[:150]}.items():
        folder_of_images(here / kind, ant=5, bee=5, cow=5)
        (here / kind / "bee" / "3.png").write_bytes(content)
    folder_of_images(here / "sizes", ant=5, bee=5, cow=5)
    Image.new("RGB", (20, 9)).save(here / "sizes" / "cow" / "0.png")
    return here


@pytest.fixture(autouse=True)
def _signals_stay() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


GOOD = {
    "--model": "{here}/good.safetensors",
    "--arch": FACTORY,
    "--data": "{here}/good.npz",
    "--size": "12",
}
GOOD |= {"--batch-size": "16", "--device": "cpu"}


def words_for(inputs: Path, out: Path, changes: dict[str, str | None]) -> list[str]:
    options = {**GOOD, "--out": str(out), **changes}
    words = ["audit"]
    for name, value in options.items():
        words += [] if value is None else [name, value.format(here=inputs)] if value else [name]
    return words


def run(words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> str:
    """Run a command that must end in one sentence; returns that sentence and the next step."""
    monkeypatch.setattr(sys, "argv", ["shortcut-audit", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capfd.readouterr()
    return check(int(ended.value.code or 0), shown.out, shown.err)


def check(code: int, out: str, err: str) -> str:
    assert code == 2, err
    assert "Traceback" not in out + err
    errors = [line for line in err.splitlines() if line.startswith("error[")]
    assert len(errors) == 1, err
    assert len(errors[0]) < 600
    after = err[err.index(errors[0]) :].splitlines()
    assert len(after) == 2, "one sentence and one next step"
    assert errors[0].endswith(".")
    assert after[1].startswith("  ")
    return " ".join(after)


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


NET = "{here}/models.py:"
BAD: dict[str, tuple[dict[str, str | None], str]] = {
    # Images.
    "missing folder": ({"--data": "{here}/nowhere"}, r"error\[data\]: .*/nowhere does not exist"),
    "empty folder": ({"--data": "{here}/empty"}, "/empty has no class folders in it"),
    "loose images": ({"--data": "{here}/loose"}, "/loose has images but no class folders"),
    "hollow classes": ({"--data": "{here}/hollow"}, "/hollow has 2 class folders and no image"),
    "text file": ({"--data": "{here}/text.txt"}, r"text\.txt is neither a folder"),
    "missing split": ({"--data": "{here}/good.npz::test"}, "no arrays x_test and y_test"),
    "one class": ({"--data": "{here}/one"}, r"/one has images of one class only \(ant\)"),
    "few images": ({"--data": "{here}/few"}, "Class 'bee' has 3 images; a split needs at least 4"),
    "damaged npz": ({"--data": "{here}/damaged.npz"}, r"damaged\.npz is damaged"),
    "objects in npz": ({"--data": "{here}/objects.npz"}, "holds Python objects"),
    "zero-byte image": ({"--data": "{here}/zero"}, r"unreadable-image\]: Image bee/3\.png .*zero bytes"),
    "corrupt image": ({"--data": "{here}/corrupt"}, r"Image bee/3\.png .*not an image"),
    "truncated image": ({"--data": "{here}/cut"}, r"Image bee/3\.png cannot be read: .*[Tt]runcated"),
    "sizes": (
        {"--data": "{here}/sizes", "--model": NET + "Net", "--arch": None, "--size": None},
        "--size 224",
    ),
    # Models.
    "no such model": ({"--model": "resnet18x", "--arch": None}, "No model is named 'resnet18x'"),
    "no such weights": ({"--model": "{here}/gone.pt"}, r"gone\.pt does not exist"),
    "no architecture": ({"--arch": None}, "holds weights, not an architecture"),
    "wrong keys": (
        {"--model": "{here}/other.safetensors"},
        r"missing from the file \(features\.0\.weight",
    ),
    "wrong shapes": ({"--model": "{here}/shape.safetensors"}, r"head\.weight \(5, 64\) for \(3, 64\)"),
    "cut weights": ({"--model": "{here}/cut.safetensors"}, "is damaged or not a weights file"),
    "code in a pickle": ({"--model": "{here}/code.pth"}, r"\(\w+\.system\) and could run code"),
    "failing factory": ({"--model": NET + "broken", "--arch": None}, "RuntimeError: no weights at home"),
    "factory of text": ({"--model": NET + "text", "--arch": None}, "type str, not a torch.nn.Module"),
    "no such function": ({"--model": NET + "none", "--arch": None}, "has no function 'none'"),
    "no such module": ({"--model": "no.such:net", "--arch": None}, "no.such cannot be imported"),
    "wrong outputs": ({"--model": NET + "ten", "--arch": None}, "10 outputs and the data 3 classes"),
    "fewer classes": ({"--data": "{here}/two", "--model": NET + "ten", "--arch": None}, "data 2 classes"),
    "tuple": ({"--model": NET + "Tuple", "--arch": None}, r"error\[logits\]: The model returns a tuple"),
    "no logits": ({"--model": NET + "Unpooled", "--arch": None}, r"returns shape \(2, 3, 12, 12\)"),
    "wrong size": (
        {"--model": NET + "Large", "--arch": None},
        "cannot take 2 images of 3 channels and 12 x 12",
    ),
    "NaN weights": ({"--model": "{here}/nan.safetensors"}, "answers NaN or infinite logits on image"),
    "NaN logits": ({"--model": NET + "Nan", "--arch": None}, "answers NaN or infinite logits on image"),
    # Options.
    "size in superscript": ({"--size": "²"}, "is not a size"),
    "empty classes": ({"--classes": "ant,,bee"}, "has an empty name"),
    "run among the images": ({"--data": "{here}", "--out": "{here}/run"}, "lies inside --data"),
    "one pixel": ({"--size": "1"}, "single pixel"),
    "huge seed": ({"--seed": "99999999999999999999"}, r"seed \(--seed\)"),
    "kept share": ({"--kept-share": "0"}, "--kept-share. was given as .*greater than 0"),
    "kept share above 1": (
        {"--kept-share": "1.5"},
        "--kept-share. was given as .*less than or equal to 1",
    ),
    "response": ({"--response": "nonsense"}, "--response. was given as .*'log-odds', 'cross-entropy'"),
    "batch size": ({"--batch-size": "x"}, "--batch-size 'x' is neither a number nor auto"),
    "batch size 0": ({"--batch-size": "0"}, "--batch-size. was given as .*greater than or equal to 1"),
    "classes": ({"--classes": "ant,unknown"}, "no images of class 'unknown'.*ant, bee, cow"),
    "images per class": (
        {"--images-per-class": "3"},
        "--images-per-class. was given as .*greater than or equal to 4",
    ),
    "device": ({"--device": "nonsense"}, "Device 'nonsense' cannot be used"),
    "float16": ({"--dtype": "float16"}, "float16 does not run on a CPU"),
    "dtype": ({"--dtype": "int8"}, "--dtype. was given as .*'float32', 'float64'"),
    "mean": ({"--mean": "red"}, "--mean 'red' is not a list of numbers"),
    "two means": ({"--mean": "0.1,0.2"}, "mean has 2 values, and the model takes images of 3 channels"),
    "std": ({"--std": "0"}, "--std '0' has a value that is not positive"),
    "size": ({"--size": "big"}, "--size 'big' is not a size"),
    "size 0": ({"--size": "0"}, "--size '0' is not a size"),
    "output names": ({"--output-names": "{here}/gone.txt"}, r"gone\.txt cannot be read"),
    "too few names": (
        {"--output-names": "{here}/text.txt", "--model": NET + "ten", "--arch": None},
        "10 outputs, and the list of output names has 1",
    ),
    # Searches.
    "search": ({"--search": "quick"}, "--search. was given as 'quick'.*'exact', 'screened'"),
    "search without gradient": (
        {"--search": "learned", "--model": NET + "Detached", "--arch": None},
        "A learned search needs the gradient .*cut off by detach.*--search exact",
    ),
    "budget in no unit": ({"--budget": "2m"}, "--budget. was given as '2m': a budget is .*2M.*10min"),
    "budget of nothing": ({"--budget": "0"}, "--budget. was given as '0'"),
    "small budget": (
        {"--budget": "449"},
        "budget of 449 image passes pays for less than two images a class.*--budget 450 or more",
    ),
    "resolution": ({"--resolution": "squares"}, "esolution 'squares' is not known.*tiles:8x12"),
    "fine tiles": ({"--resolution": "tiles:9x4"}, "Tiles of 9 rings and 4 sectors do not fit .*12 x 12"),
    "large patches": ({"--resolution": "patches:13"}, "Patches of 13 bins do not fit .*from 1 to 12"),
    "resolution of a joint search": (
        {"--resolution": "patches:4", "--search": "hierarchical"},
        "--resolution.* go.* with .*hierarchical",
    ),
    "confidence": ({"--confidence": "0.4", "--search": "screened"}, "--confidence. was given as"),
    "patch sides": ({"--patch-sides": "8,x", "--search": "hierarchical"}, "--patch-sides '8,x'"),
    "steps": ({"--steps": "0", "--search": "learned"}, "--steps. was given as"),
    "idle checkpoint": ({"--checkpoint": "{here}/good.safetensors"}, "--checkpoint goes with"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_ends_in_one_sentence_and_leaves_nothing(
    kind: str,
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    changes, message = BAD[kind]
    said = run(words_for(inputs, tmp_path / "out", changes), monkeypatch, capfd)
    assert re.search(message, said), said
    assert list(tmp_path.iterdir()) == []
    assert not (inputs / "ran").exists()


@pytest.mark.parametrize(
    "kind",
    ["zero-byte image", "NaN weights", "tuple", "kept share", "classes", "small budget", "fine tiles"],
)
def test_a_dry_run_says_the_same_of_bad_input(
    kind: str,
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    changes = BAD[kind][0]
    real = run(words_for(inputs, tmp_path / "out", changes), monkeypatch, capfd)
    dry = run(words_for(inputs, tmp_path / "out", {**changes, "--dry-run": ""}), monkeypatch, capfd)
    assert dry == real
    assert list(tmp_path.iterdir()) == []


# Output folders -----------------------------------------------------------------------------------


def test_out_that_is_a_file_or_lies_in_one_is_refused(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    said = run(words_for(inputs, tmp_path / "file", {}), monkeypatch, capfd)
    assert said.startswith(f"error[run-folder]: {tmp_path}/file is a file, not a folder.")
    said = run(words_for(inputs, tmp_path / "file" / "out", {}), monkeypatch, capfd)
    assert said.startswith(f"error[run-folder]: {tmp_path}/file/out cannot be made: Not a directory.")
    assert content_of(tmp_path) == {"file": b"mine"}


@pytest.mark.parametrize("file", ["thesis.tex", "result.json", "run.json", "report.html", ".hidden"])
def test_out_that_is_somebody_elses_is_refused_and_untouched(
    file: str,
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "out" / "deep").mkdir(parents=True)
    (tmp_path / "out" / file).write_text("{}")
    (tmp_path / "out" / "deep" / "notes.txt").write_text("years of work")
    before = content_of(tmp_path)
    said = run(words_for(inputs, tmp_path / "out", {}), monkeypatch, capfd)
    assert "is not empty and was not made by shortcut-audit" in said
    assert content_of(tmp_path) == before


def test_a_refused_input_leaves_an_empty_folder_empty_and_an_earlier_run_untouched(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "ours" / "shards").mkdir(parents=True)
    state = {"kind": "shortcut-audit run", "state": "interrupted", "shards_done": 1}
    (tmp_path / "ours" / "run.json").write_text(json.dumps(state))
    (tmp_path / "ours" / "shards" / "a.safetensors").write_bytes(b"numbers")
    before = content_of(tmp_path)
    for kind in ("NaN weights", "zero-byte image", "tuple"):
        for out in ("empty", "ours", "missing/parent/out"):
            run(words_for(inputs, tmp_path / out, BAD[kind][0]), monkeypatch, capfd)
    assert content_of(tmp_path) == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["empty", "ours"]


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that not even root can write")
def test_out_in_a_folder_that_cannot_be_written_is_refused(
    inputs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    said = run(words_for(inputs, Path("/proc/no-such-process/out"), {}), monkeypatch, capfd)
    assert said.startswith("error[run-folder]: /proc does not take the decoded images")


def test_skipped_images_are_counted_named_and_stop_nothing(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    changes: dict[str, str | None] = {"--data": "{here}/zero", "--skip-unreadable": ""}
    words = words_for(inputs, tmp_path / "out", changes)
    monkeypatch.setattr(sys, "argv", ["shortcut-audit", *words])
    main_ended_well()
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["skipped"] == [{"image": "bee/3.png", "reason": "it has zero bytes"}]
    assert re.search(r"1 (unreadable )?image", capfd.readouterr().out)


def main_ended_well() -> None:
    try:
        main()
    except SystemExit as ended:
        assert not ended.code


# Other commands, and whole processes --------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report", "{here}/nowhere"], "nowhere holds no audit: result.json is missing"),
        (["report", "{here}/zero"], "zero holds no audit"),
        (["export", "{here}/nowhere"], "nowhere holds no audit"),
        (["export", "{here}/nowhere", "--format", "xls"], "There is no format 'xls'"),
    ],
)
def test_commands_on_a_folder_without_an_audit_say_so(
    words: list[str],
    message: str,
    inputs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = sorted(inputs.rglob("*"))
    assert message in run([word.format(here=inputs) for word in words], monkeypatch, capfd)
    assert sorted(inputs.rglob("*")) == before


@pytest.mark.parametrize("kind", ["code in a pickle", "NaN weights"])
def test_a_whole_process_ends_like_that_too(kind: str, inputs: Path, tmp_path: Path) -> None:
    changes, message = BAD[kind]
    words = words_for(inputs, tmp_path / "out", changes)
    done = subprocess.run(
        [sys.executable, "-m", "shortcut_audit", *words], capture_output=True, text=True, check=False
    )
    assert re.search(message, check(done.returncode, done.stdout, done.stderr))
    assert list(tmp_path.iterdir()) == []
    assert not (inputs / "ran").exists()
