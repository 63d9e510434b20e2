from __future__ import annotations

import re
from functools import cache

import pytest
import yaml
from conftest import conv_model, random_images
from elsewhere import request_of, with_noise
from hypothesis import given
from hypothesis import strategies as st
from judged import INCONCLUSIVE, NOTHING, SHORTCUT, UNJUDGED, with_verdicts
from markdown_it import MarkdownIt
from markdown_it.token import Token
from routes import audit_by

from shortcut_audit.errors import ResultError
from shortcut_audit.report.markdown import card_metadata, code, escaped, markdown_summary
from shortcut_audit.report.next_steps import next_steps
from shortcut_audit.report.unmeasured import unmeasured
from shortcut_audit.results.audit_result import AuditResult
from shortcut_audit.run.audit import run_audit

READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
# What GitHub looks for in the finished text: mentions, references, links, emoji.
TRIGGERS = re.compile(r"@\w|#\d|\bGH-\d|https?://|www\.\w|:[\w+-]+:|mailto:\w", re.IGNORECASE)
NASTY = [
    "@octocat",
    "#123 and GH-12",
    "a | b",
    "`tick` ``two``",
    "<img src=x onerror=alert(1)>",
    "[link](https://example.org) www.example.org",
    "*a* _b_ ~~c~~ **d**",
    ":tada: $x^2$",
    "one\ntwo\r\n\r\n# three",
    "\u202eright to left",
    "back\\slash\\",
    "&amp; &lt;b&gt;",
    "1. one",
    "- two",
    "> three",
    "---",
    "mailto:me@example.org",
    "\x00\x1b[31m",
]


@cache
def judged() -> AuditResult:
    return with_verdicts(audit_by("exact"), NOTHING, SHORTCUT, INCONCLUSIVE)


def renamed(result: AuditResult, names: list[str], **provenance: object) -> AuditResult:
    """The result with other names of its classes and other facts of its provenance."""
    text = dict(zip(result.class_names, names, strict=True))
    findings = [
        finding.model_copy(
            update={
                "by_class": tuple(
                    item.model_copy(update={"class_name": text[item.class_name]})
                    for item in finding.by_class
                )
            }
        )
        if finding.measure in ("shortcuts", "dominant_frequencies")
        else finding
        for finding in result.findings
    ]
    data = result.provenance.data.model_copy(update={"class_names": tuple(names)})
    changed = result.provenance.model_copy(update={"data": data, **provenance})
    update = {"findings": tuple(findings), "provenance": changed}
    return result.model_copy(update=update).with_arrays(result.arrays)


def texts(markdown: str) -> list[tuple[str, str]]:
    """Pieces of text of a document, as (kind, content); kinds: text and code."""
    found: list[tuple[str, str]] = []

    def walk(tokens: list[Token]) -> None:
        for token in tokens:
            if token.children:
                walk(token.children)
            elif token.type in ("text", "code_inline"):
                found.append(("code" if token.type == "code_inline" else "text", token.content))

    walk(READER.parse(markdown))
    return found


def kinds(markdown: str) -> set[str]:
    found: set[str] = set()
    for token in READER.parse(markdown):
        found |= {token.type, *(child.type for child in token.children or [])}
    return found


def seen(text: str) -> str:
    """`text` as a reader sees it once it is escaped: in one line, with what steers text spelt out."""
    return text.replace("\u200b", "")


@pytest.mark.parametrize("name", NASTY)
def test_nothing_of_a_name_is_markup(name: str) -> None:
    for before, after in (("", ""), ("| a |\n| --- |\n| ", " |\n"), ("- ", "")):
        document = f"{before}{escaped(name)}{after}"
        plain = f"{before}x{after}"
        assert kinds(document) == kinds(plain)
        shown = "".join(content for _, content in texts(document) if content != "a" or not before)
        assert not TRIGGERS.search(shown)
        assert shown.isprintable() or "\u200b" in shown
        if name.isprintable():
            assert seen(shown) == name


@given(st.text(max_size=30))
def test_any_text_comes_out_as_it_went_in(name: str) -> None:
    table = f"| a | b |\n| --- | --- |\n| {escaped(name)} | end |\n"
    cells = [token for token in READER.parse(table) if token.type == "inline"]
    assert [cell.content for cell in cells[:2]] == ["a", "b"]
    assert len(cells) == 4
    assert {child.type for child in cells[2].children or []} <= {"text", "text_special"}
    shown = "".join(child.content for child in cells[2].children or [])
    assert not TRIGGERS.search(shown)
    if name.isprintable() and name == name.strip():
        assert seen(shown) == name


@given(st.text(max_size=30))
def test_code_holds_any_text(name: str) -> None:
    (paragraph,) = (token for token in READER.parse(f"so: {code(name)}.") if token.type == "inline")
    assert [child.type for child in paragraph.children or []] == ["text", "code_inline", "text"]
    if name.isprintable() and name == name.strip() and name:
        assert (paragraph.children or [])[1].content == name


def test_a_summary_of_hostile_names_has_the_structure_of_a_plain_one() -> None:
    plain = markdown_summary(judged())
    for start in range(0, len(NASTY), 3):
        model = judged().model.model_copy(
            update={"architecture": NASTY[start], "spec": "`" + NASTY[start]}
        )
        result = renamed(judged(), NASTY[start : start + 3], model=model, command=NASTY[start])
        summary = markdown_summary(result)
        types = [token.type for token in READER.parse(summary)]
        assert types == [token.type for token in READER.parse(plain)]
        assert "html_inline" not in kinds(summary)
        assert "link_open" not in kinds(summary)
        assert not any(TRIGGERS.search(content) for kind, content in texts(summary) if kind == "text")


def test_the_verdict_comes_first_then_the_worst_classes_with_their_numbers() -> None:
    lines = markdown_summary(judged()).splitlines()
    assert lines[2].startswith(
        "**1 of 3 classes hangs on a frequency shortcut: “bee”. Inconclusive: 1 more"
    )
    rows = [line for line in lines if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| bee", r"| cow \[x\]", "| ant"]
    best = judged().shortcuts.by_class[1].best
    assert best is not None
    low, high = best.flips.interval
    turned = f"{100 * best.flip_rate:.1f}% ({100 * low:.1f} to {100 * high:.1f}, n {best.flips.n})"
    assert turned in rows[2]
    accuracy = judged().predictions.accuracy_by_class[1]
    assert f"({100 * accuracy.low:.1f}–{100 * accuracy.high:.1f}, n {accuracy.n})" in rows[2]


def test_what_was_not_measured_next_steps_and_provenance_are_told() -> None:
    summary = markdown_summary(judged())
    assert [line for line in summary.splitlines() if line.startswith("#")] == [
        "## Frequency shortcuts of Sequential",
        "### Why",
        "### Not measured",
        *(["### Before trusting a number"] if judged().notes else []),
        "### Next steps",
        "### Provenance",
    ]
    words = seen("".join(content for _, content in texts(summary)))
    for what, why in unmeasured(judged()):
        assert what in words
        assert why.replace("`", "") in words
    for step in next_steps(judged()):
        assert step.replace("`", "") in words
    assert judged().provenance.command in words
    assert judged().model.digest[:16] in words
    # Commands stay as they are typed.
    assert "`--ood NAME=DATA`" in summary


def test_only_the_worst_of_many_classes_are_in_the_table() -> None:
    small = judged()
    items = tuple(
        small.shortcuts.by_class[0].model_copy(update={"class_name": f"class {number}"})
        for number in range(25)
    )
    accuracies = small.predictions.accuracy_by_class[:1] * 25
    maps = small.dominant_frequencies.by_class[0]
    replaced = {
        "shortcuts": small.shortcuts.model_copy(update={"by_class": items}),
        "predictions": small.predictions.model_copy(update={"accuracy_by_class": accuracies}),
        "dominant_frequencies": small.dominant_frequencies.model_copy(
            update={
                "by_class": tuple(maps.model_copy(update={"class_name": i.class_name}) for i in items)
            }
        ),
    }
    data = small.provenance.data.model_copy(
        update={"class_names": tuple(item.class_name for item in items)}
    )
    result = small.model_copy(
        update={
            "findings": tuple(replaced.get(each.measure, each) for each in small.findings),
            "provenance": small.provenance.model_copy(update={"data": data}),
        }
    )
    summary = markdown_summary(result)
    assert sum(line.startswith("| class ") for line in summary.splitlines()) == 1 + 10
    assert "15 more classes stand no worse." in summary


def test_a_summary_of_data_alone_names_bands_and_the_probe(hostile_data: AuditResult) -> None:
    summary = markdown_summary(hostile_data)
    assert summary.startswith(
        "## Frequency shortcuts that the images invite\n\n**48 images of 6 classes."
    )
    assert "html_inline" not in kinds(summary)
    words = seen("".join(content for _, content in texts(summary)))
    for name in hostile_data.class_names:
        if name.isprintable():
            assert name[:50] in words
    assert "shortcut-audit audit" in summary
    with pytest.raises(ResultError, match="without a model"):
        markdown_summary(hostile_data, model_card=True)


def metadata_of(result: AuditResult) -> dict[str, object]:
    card = markdown_summary(result, model_card=True)
    match = re.match(r"---\n(.*?)\n---\n\n## ", card, re.DOTALL)
    assert match is not None
    read: dict[str, object] = yaml.safe_load(match[1])
    return read


def test_a_model_card_says_what_was_measured_in_its_metadata() -> None:
    read = metadata_of(judged())
    assert read == card_metadata(judged())
    (model,) = read["model-index"]  # type: ignore[misc, attr-defined]
    (found,) = model["results"]
    assert found["task"]["type"] == "image-classification"
    metrics = {metric["type"]: metric["value"] for metric in found["metrics"]}
    assert metrics["accuracy"] == judged().predictions.accuracy.value
    assert metrics["shortcut_classes"] == 1
    assert metrics["inconclusive_classes"] == 1
    assert metrics["judged_classes"] == 3
    best = [item.best.flip_rate for item in judged().shortcuts.by_class if item.best is not None]
    assert metrics["worst_flip_rate"] == round(max(best), 6)


def test_what_was_not_judged_is_no_metric() -> None:
    read = metadata_of(with_verdicts(audit_by("exact"), UNJUDGED, UNJUDGED, UNJUDGED))
    metrics = read["model-index"][0]["results"][0]["metrics"]  # type: ignore[index]
    assert [metric["type"] for metric in metrics] == ["accuracy"]


def test_other_sets_are_results_of_their_own() -> None:
    home = random_images(10, 3, (1, 6, 6))
    result = run_audit(request_of(conv_model(3, 1), home, {"copies <b>": with_noise(home)}))
    results = metadata_of(result)["model-index"][0]["results"]  # type: ignore[index]
    assert [each["dataset"]["name"] for each in results][1:] == ["copies <b>"]
    assert results[1]["dataset"]["type"] == "copies-b"
    assert result.transfer is not None
    assert results[1]["metrics"][0]["value"] == result.transfer.by_set[0].accuracy.value


@pytest.mark.parametrize(
    "name", [*NASTY, "yes", "null", "1e3", '"', "'", "🦓\u2028\x85\ufeff\uffff", "", "\udce9"]
)
def test_metadata_are_yaml_whatever_the_names_are(name: str) -> None:
    model = judged().model.model_copy(update={"architecture": name, "spec": name})
    data = judged().provenance.data.model_copy(update={"spec": name})
    provenance = judged().provenance.model_copy(update={"model": model, "data": data})
    result = judged().model_copy(update={"provenance": provenance})
    read = metadata_of(result)
    assert read == card_metadata(result)
    (found,) = read["model-index"]  # type: ignore[misc, attr-defined]
    assert isinstance(found["name"], str)
    assert found["name"]
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*", found["results"][0]["dataset"]["type"])


def test_hugging_face_reads_the_metadata() -> None:
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(markdown_summary(judged(), model_card=True))
    results = {each.metric_type: each.metric_value for each in card.data.eval_results}
    assert results["shortcut_classes"] == 1
    assert card.data.library_name == "pytorch"
    assert card.data.model_name == "Sequential"


@pytest.mark.parametrize(
    ("spec", "library"),
    [
        ("timm:resnet18", "timm"),
        ("hf-hub:timm/resnet18", "timm"),
        ("nets/a.onnx", "onnx"),
        ("a.safetensors", "pytorch"),
    ],
)
def test_the_library_is_the_one_that_loads_the_model(spec: str, library: str) -> None:
    model = judged().model.model_copy(update={"spec": spec})
    provenance = judged().provenance.model_copy(update={"model": model})
    assert (
        card_metadata(judged().model_copy(update={"provenance": provenance}))["library_name"] == library
    )


def test_equal_results_give_equal_text() -> None:
    again = with_verdicts(audit_by("exact"), NOTHING, SHORTCUT, INCONCLUSIVE)
    assert markdown_summary(judged(), model_card=True) == markdown_summary(again, model_card=True)
