"""Real audits that the gate is measured with: clean networks, fine-tuned ones, and other seeds.

Made by `benchmarks/gate.py`; a folder that is there is not made again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verdicts import CASES as TRAINED_CASES
from verdicts import SMALL, Entry, cut, kept, other, prepared, true_flips, waves

from shortcut_audit.data.plans import Plan
from shortcut_audit.data.planting import plant
from shortcut_audit.data.sources import open_source
from shortcut_audit.models.loading import LoadedModel, ModelRequest, load_model
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.settings import settings_from
from shortcut_audit.results.store import RESULT_FILE, load_result
from shortcut_audit.results.truth import load_truth
from shortcut_audit.run.audit import run_audit
from shortcut_audit.run.prepare import AuditRequest
from shortcut_audit.training.settings import TrainSettings
from shortcut_audit.training.subject import ModelChoice
from shortcut_audit.training.train import TrainRequest, train

N_SEEDS = 5
# Images of a class that are audited, the share of them that maps are found on, and how long networks
# are trained and fine-tuned. Of the small networks all that the sets hold, most of them to judge; of
# ResNet-20 as few as there are.
N_IMAGES, SEARCH_SHARE, EPOCHS, FINE_TUNED = 250, 0.2, 6, 5
N_RESNET_IMAGES, RESNET_SEARCH_SHARE = 40, 0.5
SETS = ("cifar", "fashion")
RESNET = "resnet20"


@dataclass(frozen=True)
class Planted:
    """One class of a set, and what is planted in it."""

    data: str
    class_name: str
    entry: Entry
    series: str = ""

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.data}-{self.class_name.replace(' ', '-')}{self.series}"


_CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FASHION = (
    *("T-shirt-top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def _entries(classes: tuple[str, ...], loud: float, block: int) -> list[tuple[str, Entry]]:
    """A plant of its own for each class: single waves, several, grids, checkerboards, textures."""
    kinds: list[Any] = [
        lambda c: waves(c, [(5, 9)], 6 * loud),
        lambda c: waves(c, [(11, -4), (3, 12)], 5 * loud),
        lambda c: other("block-grid", c, strength=5 * loud, block=block),
        lambda c: waves(c, [(7, 7)], 7 * loud),
        lambda c: other("checkerboard", c, strength=4 * loud),
        lambda c: waves(c, [(0, 10), (10, 0)], 5 * loud),
        lambda c: other("texture", c, radius=(9, 12), strength=8 * loud, phase="random"),
        lambda c: waves(c, [(-6, 10)], 7 * loud, phase="fixed"),
        lambda c: other("block-grid", c, strength=6 * loud, block=block, phase="random"),
        lambda c: waves(c, [(12, 3)], 8 * loud, share=0.8),
    ]
    return [(name, make(name)) for name, make in zip(classes, kinds, strict=True)]


# What one class carries in the first series, another one does in the second.
_TURNED = (*_CIFAR[3:], *_CIFAR[:3])
CASES = [
    *(Planted("cifar", name, entry) for name, entry in _entries(_CIFAR, 1.0, 8)),
    *(Planted("cifar", name, entry, "-2") for name, entry in _entries(_TURNED, 0.8, 6)),
    *(Planted("fashion", name, entry) for name, entry in _entries(_FASHION, 1.6, 7)),
]


def _trained(spec: str, folder: Path, epochs: int, start: Path | None = None) -> Path:
    """Weights of the small network trained on `spec`, from those of `start` where there are any."""
    done = train(
        TrainRequest(
            model=ModelChoice(spec=SMALL, checkpoint=start),
            source=open_source(f"{spec}::train"),
            settings=TrainSettings(epochs=epochs),
        ),
        folder,
    )
    return done.folder / "model.safetensors"


def _request(loaded: LoadedModel, spec: str, seed: int, n_images: int = N_IMAGES) -> AuditRequest:
    source = open_source(spec)
    height, width = (int(side) for side in source.read(0).shape[:2])  # type: ignore[union-attr]
    share = SEARCH_SHARE if n_images == N_IMAGES else RESNET_SEARCH_SHARE
    settings = settings_from(
        {
            "images_per_class": n_images,
            "search_share": share,
            "seed": seed,
            "search": "screened",
            "examples": 0,
        }
    )
    return AuditRequest(
        model=loaded, source=source, settings=settings, command="benchmark", size=(height, width)
    )


def _audited(
    loaded: LoadedModel, spec: str, folder: Path, seed: int, n_images: int = N_IMAGES
) -> AuditResult:
    if (folder / RESULT_FILE).is_file():
        return load_result(folder)
    result = run_audit(_request(loaded, spec, seed, n_images))
    result.save(folder)
    return result


def _small(weights: Path, n_classes: int = 10) -> LoadedModel:
    return load_model(ModelRequest(spec=SMALL, checkpoint=weights, n_classes=n_classes))


def clean_audit(name: str, seed: int, data: Path, work: Path) -> tuple[Path, AuditResult]:
    """A clean network audited with a seed; its folder, and the result."""
    folder = work / "audits" / f"{name}-clean-{seed}"
    if name == RESNET:
        repository = Path(__file__).parent.parent
        loaded = load_model(
            ModelRequest(
                spec=f"{repository / 'examples' / 'resnet_cifar.py'}:resnet20",
                checkpoint=data / "checkpoints" / "resnet20-12fca82f.th",
            )
        )
        spec = f"{data / 'cifar10_lossless.npz'}::test"
        return folder, _audited(loaded, spec, folder, seed, N_RESNET_IMAGES)
    source = cut(data, name, work)
    loaded = _small(_trained(str(source), work / "models" / f"{name}-clean", EPOCHS))
    return folder, _audited(loaded, f"{source}::test", folder, seed)


def planted_audits(case: Planted, data: Path, work: Path) -> tuple[AuditResult, AuditResult]:
    """The clean network, and the same one fine-tuned where one class carries a plant: both audited on the
    same images, which carry it."""
    source = cut(data, case.data, work)
    planted = work / "sets" / case.name
    if not planted.is_dir():
        # Black grounds clip at once.
        headroom = 24.0 if case.data == "fashion" else 12.0
        plan: dict[str, Any] = {"name": case.name, "seed": 1, "headroom": headroom, "max_clipped": 0.05}
        plan |= {"plant": [case.entry]}
        plant(str(source), Plan.model_validate(plan), planted, formats=("npz",))
    start = _trained(str(source), work / "models" / f"{case.data}-clean", EPOCHS)
    weights = _trained(str(planted), work / "models" / case.name, FINE_TUNED, start)
    folder, spec = work / "audits", f"{planted}::test"
    before = _audited(_small(start), spec, folder / f"{case.name}-before", 0)
    return before, _audited(_small(weights), spec, folder / case.name, 0)


def used_share(case: Planted, data: Path, work: Path) -> float:
    """Share of other images that the true planted orbits turn into the class."""
    planted_audits(case, data, work)
    planted = work / "sets" / case.name
    loaded = _small(work / "models" / case.name / "model.safetensors")

    def measured() -> float:
        request = _request(loaded, f"{planted}::test", 0)
        return true_flips(request, load_truth(planted / "truth.json"))[case.class_name][1]

    return float(kept(work / "audits" / case.name / "used.json", measured))


# Networks of `verdicts.py`, trained with several plants from the start, and the clean one of their set.
TRAINED = {"tiny waves": "tiny clean", "tiny kinds": "tiny clean", "fashion waves": "fashion clean"}


def trained_audits(name: str, data: Path, work: Path) -> tuple[AuditResult, AuditResult]:
    """The clean one, and one with plants, both audited on the same images, which carry them."""
    folder, verdicts = work / "audits" / name.replace(" ", "-trained-"), work / "verdicts"
    clean = TRAINED[name]
    start, *_ = prepared(TRAINED_CASES[clean], clean, data, verdicts)
    loaded, spec, _ = prepared(TRAINED_CASES[name], name, data, verdicts)
    before = _audited(start, spec, folder.with_name(f"{folder.name}-before"), 0)
    return before, _audited(loaded, spec, folder, 0)


def trained_used(name: str, data: Path, work: Path) -> dict[str, tuple[str, float]]:
    """Kind of each class's plant, and the share of other images that its true orbits turn."""
    loaded, spec, truth = prepared(TRAINED_CASES[name], name, data, work / "verdicts")
    assert truth is not None

    def measured() -> dict[str, tuple[str, float]]:
        found = true_flips(_request(loaded, spec, 0), truth)
        return {name: (kind, share) for name, (kind, share, *_) in found.items()}

    path = work / "audits" / f"used {name}.json"
    return {key: (kind, share) for key, (kind, share) in kept(path, measured).items()}


def make_all(data: Path, work: Path, names: tuple[str, ...] = (*SETS, RESNET)) -> None:
    """Every audit of some networks."""
    for name in names:
        clean_audit(name, 0, data, work)
        for case in CASES:
            if case.data == name:
                planted_audits(case, data, work)
        for seed in range(1, N_SEEDS):
            clean_audit(name, seed, data, work)
