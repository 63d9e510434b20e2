"""Steps that fit what was found, with commands that exist; and what was not measured."""

from __future__ import annotations

import re
from typing import Any

import pytest
import typer
from judged import INCONCLUSIVE, NOTHING, SHORTCUT, UNJUDGED, with_verdicts
from routes import audit_by
from shifted import audit_under

from shortcut_audit.cli.main import app
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.mask_text import parse_mask
from shortcut_audit.report.environment import _coded
from shortcut_audit.report.next_steps import _mask, next_steps
from shortcut_audit.report.unmeasured import unmeasured
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.results.shortcut_findings import Extent


def of(*changes: dict[str, object]) -> AuditResult:
    return with_verdicts(audit_by("exact"), *changes)


def test_a_shortcut_asks_for_its_source_its_travel_and_its_removal() -> None:
    steps = next_steps(of(NOTHING, SHORTCUT, INCONCLUSIVE))
    assert "where the images of “bee” come from" in steps[0]
    assert "--ood NAME=DATA" in steps[1]
    assert "shortcut-audit filter" in steps[2]
    assert "shortcut-audit compare" in steps[2]
    assert "“cow [x]” is inconclusive, which is no all-clear" in steps[3]
    assert "About 900 judgement images would decide it." in steps[3]
    assert "debts" in steps[-1]


def test_an_all_clear_asks_for_other_images_and_keeps_watch() -> None:
    steps = " ".join(next_steps(of(NOTHING, NOTHING, NOTHING)))
    assert "No shortcut found here is no proof" in steps
    assert "--shift jpeg:1-5" in steps
    assert "gate init" in steps
    assert "debts" not in steps
    assert "filter" not in steps


def test_what_was_done_is_not_asked_for_again() -> None:
    steps = " ".join(next_steps(audit_under("jpeg:3,haze")))
    assert "--ood NAME=DATA" in steps
    assert "--shift" not in steps


@pytest.mark.parametrize(
    ("extent", "mask"),
    [
        ({"narrow": True, "n_orbits": 2}, "orbits:(1,2),(-3,4)"),
        ({"narrow": True, "n_orbits": 3}, "radius:1.7-5.5"),
        ({"narrow": False, "n_orbits": 2}, "radius:1.7-5.5"),
    ],
)
def test_the_mask_that_takes_a_shortcut_away_is_one_that_the_filter_reads(
    extent: dict[str, Any], mask: str
) -> None:
    found = Extent(band="mid", direction=None, radius=(2.2, 5.0), orbits=((1, 2), (-3, 4)), **extent)
    assert _mask(found) == mask
    grid = FrequencyGrid(16, 16)
    chosen = parse_mask(mask, grid)
    assert all(chosen[grid.orbit_of(u, v)] for u, v in found.orbits)
    assert chosen.sum() < grid.n_orbits / 2


def commands() -> dict[str, set[str]]:
    """Options of every command, by its name."""
    found: dict[str, set[str]] = {}

    def walk(prefix: str, command: Any) -> None:
        for name, inner in getattr(command, "commands", {}).items():
            found[f"{prefix}{name}"] = {option for each in inner.params for option in each.opts}
            walk(f"{prefix}{name} ", inner)

    walk("", typer.main.get_command(app))
    return found


@pytest.mark.parametrize(
    "changes",
    [(SHORTCUT, SHORTCUT, INCONCLUSIVE), (NOTHING, NOTHING, NOTHING), (UNJUDGED, UNJUDGED, UNJUDGED)],
)
def test_every_command_and_option_that_is_named_exists(changes: tuple[dict[str, object], ...]) -> None:
    known = commands()
    result = of(*changes)
    texts = [*next_steps(result), *(why for _, why in unmeasured(result))]
    named = [code for text in texts for code in re.findall(r"`([^`]*)`", text)]
    assert named
    for code in named:
        words = code.split()
        if words[0] == "shortcut-audit":
            two = " ".join(words[1:3])
            command = {"gate": two, "data": "data look"}.get(words[1], words[1])
            assert command in known, code
            options = [word for word in words if word.startswith("-")]
            assert set(options) <= known[command], code
        else:
            assert words[0] in known["audit"], code


def test_what_stands_in_backticks_is_code_and_names_stay_inert() -> None:
    assert _coded("`a <b>` of <i>“x”</i>") == "<code>a &lt;b&gt;</code> of &lt;i&gt;“x”&lt;/i&gt;"


def test_what_was_not_measured_says_why() -> None:
    told = dict(unmeasured(of(UNJUDGED, NOTHING, NOTHING)))
    assert told["Verdicts of 1 class"] == "tests against a null are not part of this audit"
    assert "--ood" in told["Other sets of images"]
    assert "--shift" in told["Corruptions"]
    assert "Shortcuts of other kinds" in told
    assert "Corruptions" not in dict(unmeasured(audit_under("jpeg:3,haze")))


def test_classes_that_were_not_searched_are_counted() -> None:
    result = audit_by("exact")
    kept = {
        "shortcuts": result.shortcuts.model_copy(update={"by_class": result.shortcuts.by_class[:1]}),
        "dominant_frequencies": result.dominant_frequencies.model_copy(
            update={"by_class": result.dominant_frequencies.by_class[:1]}
        ),
    }
    findings = tuple(kept.get(finding.measure, finding) for finding in result.findings)
    told = dict(unmeasured(result.model_copy(update={"findings": findings})))
    assert "some classes were searched" in told["Maps and verdicts of 2 of 3 classes"]


def test_names_with_backticks_and_images_without_a_name_break_no_command() -> None:
    result = of({**SHORTCUT, "class_name": "a`b"}, NOTHING, NOTHING)
    steps = next_steps(result)
    assert "“a’b”" in steps[0]
    # Made from Python: there is no path to name.
    assert "`shortcut-audit data DATA --out LOOK`" in steps[0]
    assert all(step.count("`") % 2 == 0 for step in steps)
    data = result.provenance.data.model_copy(update={"spec": "my images/set.npz::test"})
    named = result.provenance.model_copy(update={"data": data, "command": "shortcut-audit audit ..."})
    steps = next_steps(result.model_copy(update={"provenance": named}))
    # Without ::test: copies of what the model is judged by are no images to train on.
    assert "--data 'my images/set.npz' --remove" in steps[2]


def test_all_orbits_of_a_narrow_shortcut_are_taken_away() -> None:
    orbits = tuple((u, 3) for u in range(8))
    extent = Extent(band="mid", narrow=True, direction=None, radius=(3.0, 8.0), orbits=orbits, n_orbits=8)
    assert _mask(extent).count("(") == 8
