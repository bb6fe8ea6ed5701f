"""Reports: the verdict first, one page that loads nothing, the same bytes twice, and names that stay names."""

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy
import pytest

from lwcl.reporting import plots
from lwcl.reporting.knn import EncoderResult, knn_report
from lwcl.reporting.report import Picture, Report, Table, flatten_facts
from lwcl.reporting.training import run_headline, training_report
from lwcl.settings import FLAG, SettingValue, recorded_value

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=https://example.org/x onerror=alert(1)>',
    "\x1b[31mred",
    "[red]",
    "a\nb",
    "cat\u202egpj",
    os.fsdecode(b"caf\xe9"),
    "$\\frac{1}{0}$",
    "{{ 7 * 7 }}{% raw %}",
    "猫" * 80,
]
METRICS: list[dict[str, Any]] = [
    {"step": n, "epoch": n / 10, "loss": 7 - n / 20, "lr": 0.03, "std": 0.9, "effective_rank": 50.0, "top1": n / 100}
    for n in range(1, 101)
]
METRICS[50:50] = [{"step": 50, "epoch": 5, "knn_top1": 0.25}]
METRICS += [{"step": 100, "epoch": 10, "knn_top1": 0.75, "loss": None}]
VOID = {"meta", "img", "path", "use", "br"}


class Page(HTMLParser):
    """The tags, attributes and text of a page; asserts that tags are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def training(metrics: list[dict[str, Any]] = METRICS, **changes: Any) -> Report:
    samples = numpy.random.default_rng(0).integers(0, 256, (2, 4, 40, 32, 3), dtype=numpy.uint8)
    given: dict[str, Any] = {
        "settings": {"batch_size": SettingValue(64, FLAG), "lr": recorded_value(0.03, "recipe light")},
        "facts": {"images": 640, "bad_files": {"count": 1}},
        "environment": {"torch": "2.14.1"},
        "command": "lwcl pretrain --data photos/",
        "timing": {"images_per_second": 412.3, "seconds": 4567.8, "waited": 0.031},
        "samples": samples,
    }
    return training_report("pretrain", "pretrain moco", metrics, **{**given, **changes})


def judged(
    name: str, top1: float, gain: tuple[float, tuple[float, float]] | None = None, untrained: bool = False
) -> EncoderResult:
    return EncoderResult(name, "resnet18", top1, (top1 - 0.01, top1 + 0.01), 0.9, (0.89, 0.91), 20, untrained, gain)


def knn(rows: list[EncoderResult], **changes: Any) -> Report:
    return knn_report(rows, images=1000, **{"settings": {}, "facts": {}, **changes})


def hostile_report() -> Report:
    name = " ".join(HOSTILE)
    series = plots.Series(name, [0, 1], [0, 1])
    pictures = [
        Picture(name, name, plots.curves_svg([series, series], name)),
        Picture(name, name, plots.bars_svg([plots.Bar(one, 50, (40, 60)) for one in HOSTILE], name)),
        Picture(name, name, png=plots.sheet_png(numpy.zeros((1, 2, 8, 8, 3), numpy.uint8))),
    ]
    return Report(
        kind="knn",
        title=name,
        verdict=name,
        tables=(Table(name, (name, "n"), tuple((one, 1) for one in HOSTILE), name),),
        pictures=tuple(pictures),
        facts={name: HOSTILE},
        settings={name: recorded_value(tuple(HOSTILE), name)},
        environment={name: name},
        command=name,
    )


def test_hostile_names_are_text_and_nothing_else() -> None:
    html = hostile_report().to_html()
    page = Page(html)
    names = {name for name, _ in page.attributes}
    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    assert not any(name.startswith("on") for name in names)
    assert HOSTILE[0] in page.text
    assert HOSTILE[1] in page.text
    assert "{{ 7 * 7 }}" in page.text
    for shown in (r"\x1b[31mred", r"a\nb", r"cat\u202egpj", r"caf\udce9"):
        assert shown in page.text
    assert not any(c in html for c in ("\x1b", "\u202e", "\udce9"))
    html.encode("utf-8", "strict")


def test_a_page_shows_where_each_setting_comes_from() -> None:
    html = training().to_html()
    assert all(f">{origin}</td>" in html for origin in ("flag", "recipe light"))


def test_hostile_names_pass_json_and_come_back_as_they_were() -> None:
    text = hostile_report().to_json()
    assert text.isascii()
    rows = json.loads(text)["tables"][0]["rows"]
    assert [row[0] for row in rows] == [*HOSTILE[:6], r"caf\udce9", *HOSTILE[7:]]


def test_a_hostile_report_is_written_under_names_of_ours(tmp_path: Path) -> None:
    hostile_report().write(tmp_path)
    names = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert len(names) == 3
    assert all(re.fullmatch(r"0\d-[a-z0-9-]*\.(svg|png)", name) for name in names)


def test_a_page_loads_nothing_and_runs_nothing() -> None:
    for report in (training(), knn([judged("a", 0.5)]), hostile_report()):
        page = Page(report.to_html())
        assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
        for name, value in page.attributes:
            if name in ("src", "href", "xlink:href", "srcset", "action"):
                assert value is not None
                assert value.startswith(("data:image/png;base64,", "#"))
        styles = report.to_html().replace("url(#", "")
        assert "url(" not in styles
        assert "@import" not in styles


def test_a_training_report_with_samples_of_noise_is_below_three_megabytes() -> None:
    noise = numpy.random.default_rng(0).integers(0, 256, (64, 5, 224, 224, 3), dtype=numpy.uint8)
    long = [{**METRICS[0], "step": n, "epoch": n / 1000, "grad_norm": n % 7} for n in range(20_000)]
    assert len(training(long, samples=noise).to_html().encode()) < 3_000_000


def test_the_verdict_comes_first_then_results_then_plots_then_the_configuration() -> None:
    html = training().to_html()
    marks = ["loss 6.95 at its highest", "Results<", "Plots<", "Configuration<", "lwcl pretrain --data photos/"]
    places = [html.index(mark) for mark in marks]
    assert places == sorted(places)


def test_a_page_can_be_read_on_a_phone_and_without_eyes() -> None:
    page = Page(training().to_html())
    assert ("lang", "en") in page.attributes
    assert ("name", "viewport") in page.attributes
    assert page.tags.count("main") == page.tags.count("h1") == 1
    assert page.tags.count("figure") == page.tags.count("figcaption")
    images = [name for name, _ in page.attributes if name == "alt"]
    assert len(images) == page.tags.count("img")
    assert page.attributes.count(("role", "img")) == page.tags.count("svg")
    assert page.tags.count("table") == page.attributes.count(("class", "scroll"))


def test_no_identifier_is_used_twice_on_a_page() -> None:
    names = [value for name, value in Page(training().to_html()).attributes if name == "id"]
    assert len(names) == len(set(names))


def test_the_same_numbers_give_the_same_bytes() -> None:
    assert training().to_html() == training().to_html()
    assert training().to_json() == training().to_json()


def test_a_plot_is_xml_in_the_ink_of_the_page_without_a_date() -> None:
    svg = plots.curves_svg([plots.Series("a<b", [0, 1, 2], [1, None, 3]), plots.Series("$x$", [0, 1], [1, 2])], "epoch")
    texts = [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]  # noqa: S314
    assert {"a<b", "$x$", "epoch"} <= set(texts)
    assert "currentColor" in svg
    assert plots.INK not in svg
    assert "metadata" not in svg
    assert re.search(r"20\d\d-\d\d", svg) is None


def test_curves_differ_in_more_than_colour() -> None:
    svg = plots.curves_svg([plots.Series(str(i), [0, 1], [i, i]) for i in range(6)], "epoch")
    assert len(set(re.findall(r"stroke-dasharray: ([^;\"]+)", svg))) >= 5


def test_drawing_leaves_matplotlib_as_it_was() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    plots.bars_svg([plots.Bar("a", 1, (0, 2))], "x")
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("count", [1, 299, 300, 301, 5000])
def test_a_long_curve_is_averaged_not_cut(count: int) -> None:
    x, y = plots.downsample(plots.Series("s", range(count), [2.0 * i for i in range(count)]))
    assert len(x) == min(count, plots.MAX_PLOT_POINTS)
    assert y == pytest.approx([2 * value for value in x])
    assert x[-1] > 0.99 * (count - 1) - 1


def test_a_sheet_has_a_cell_for_each_image_and_at_most_eight_rows() -> None:
    from io import BytesIO

    from PIL import Image

    images = numpy.zeros((9, 3, 32, 64, 3), numpy.uint8)
    images[0, 1] = (255, 0, 0)
    with Image.open(BytesIO(plots.sheet_png(images))) as image:
        assert image.size == (3 * 96 + 2 * 4, 8 * 48 + 7 * 4)
        assert image.getpixel((100 + 48, 24)) == (255, 0, 0, 255)
        assert image.getpixel((98, 24)) == (0, 0, 0, 0)


def test_a_long_name_is_shortened_in_the_middle() -> None:
    assert plots.shorten("short") == "short"
    text = plots.shorten("start" + "x" * 300 + "end")
    assert len(text) == 48
    assert text.startswith("start")
    assert text.endswith("end")


def test_a_written_report_ends_with_its_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    real = os.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: (written.append(Path(to).name), real(self, to))[1])
    training().write(tmp_path)
    assert written[-2:] == ["report.html", "report.json"]
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["schema_version"] == 2
    assert document["settings"]["lr"] == {"value": 0.03, "origin": "recipe light"}
    assert document["facts"]["last"]["knn_top1"] == 0.75
    assert [picture["title"] for picture in document["pictures"]][:2] == ["Loss", "kNN top-1"]
    assert all((tmp_path / picture["file"]).stat().st_size > 0 for picture in document["pictures"])


def test_the_verdict_of_a_training_is_its_accuracy_its_health_and_its_effort() -> None:
    accuracy, health, effort = training().verdict.splitlines()
    assert accuracy == "kNN top-1 while training: 25.0% at first, 75.0% at the end."
    assert health == "Embedding health: no problem found (std 0.90, effective rank 50.0)."
    assert effort == "Trained for 10 epochs (100 steps) in 1:16:08; loss 6.95 at its highest, 2.23 at the end."


@pytest.mark.parametrize(
    ("at_the_end", "words"),
    [
        ({"std": 0.01, "effective_rank": 1.1}, "Problem: collapse: .* (std 0.01, effective rank 1.1)"),
        ({"effective_rank": 6.0}, "Problem: possible dimensional collapse: effective rank fell from 50 to 6; try"),
        ({"std": 0.2}, "Problem: the embeddings are close together (std 0.20, effective rank 50.0)"),
    ],
)
def test_the_verdict_names_what_is_wrong_at_the_end(at_the_end: dict[str, float], words: str) -> None:
    metrics = [record | at_the_end if record["step"] > 90 else record for record in METRICS]
    assert re.search(re.escape(words).replace(re.escape(".*"), ".*"), training(metrics).verdict)


@pytest.mark.parametrize(
    ("gain", "rank", "headline"),
    [
        ((0.2, (0.1, 0.3)), 50.0, "Training helped (+20.0 points of kNN top-1)."),
        (
            (0.2, (0.1, 0.3)),
            6.0,
            "Training helped (+20.0 points of kNN top-1), but there is a problem: possible dimensional collapse: "
            "effective rank fell from 50 to 6.",
        ),
        ((-0.2, (-0.3, -0.1)), 50.0, "Training hurt (-20.0 points of kNN top-1)."),
        ((0.0, (-0.1, 0.1)), 50.0, "Training made no significant difference (+0.0 points of kNN top-1)."),
    ],
)
def test_one_sentence_says_what_was_gained_and_what_is_wrong(gain: Any, rank: float, headline: str) -> None:
    metrics = [record | {"effective_rank": rank} if record["step"] > 90 else record for record in METRICS]
    assert run_headline(gain, training(metrics).verdict) == headline


@pytest.mark.parametrize(
    ("top1", "chance", "words"),
    [
        (
            0.5,
            (0.01, 9.0),
            r"Training task: better than guessing, top-1 50.0% \(guessing: 1.0%\), loss 2.23 \(guessing: 9\)",
        ),
        (0.05, (0.01, None), r"Training task: only slightly better than guessing, top-1 5.0% \(guessing: 1.0%\)\."),
        (0.015, (0.01, None), "Problem: the training task is not solved, top-1 1.5%"),
        (0.5, (0.01, 2.0), "Problem: the training task is not solved"),
    ],
)
def test_the_training_task_is_measured_against_guessing(top1: float, chance: Any, words: str) -> None:
    metrics = [record | {"top1": top1} for record in METRICS]
    assert re.search(f"^{words}", training(metrics, chance=chance).verdict, re.MULTILINE)


def test_a_training_without_a_record_has_a_report_too() -> None:
    report = training([], samples=None, timing=None)
    assert "Nothing was measured" in report.verdict
    assert report.pictures == ()
    Page(report.to_html())


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        (
            (0.231, (0.21, 0.25)),
            "significantly better than an untrained resnet18 (+23.1 points, 95% interval +21.0 to +25.0)",
        ),
        ((0.01, (-0.01, 0.03)), "no significant difference from an untrained resnet18"),
        ((-0.05, (-0.07, -0.03)), "significantly worse than"),
        (None, "kNN top-1 50.0% on 1,000 images (95% interval 49.0 to 51.0)."),
    ],
)
def test_the_verdict_of_knn_says_whether_training_helped(gain: Any, words: str) -> None:
    report = knn([judged("mine", 0.5, gain), judged("random/resnet18", 0.6, untrained=True)])
    assert report.verdict.startswith("mine: ")
    assert words in report.verdict


def test_knn_tells_every_encoder_with_its_intervals() -> None:
    report = knn([judged("mine", 0.5, (0.2, (0.1, 0.3))), judged("random/resnet18", 0.3, untrained=True)])
    (table,) = report.tables
    assert table.rows[0][:4] == ("mine", "50.0%", "49.0 to 51.0", "+20.0 (+10.0 to +30.0)")
    assert table.rows[1][3] is None
    assert "hatched: untrained" in report.pictures[0].caption
    assert report.document()["facts"]["encoders"][0]["top1"] == 0.5


def test_columns_of_numbers_stand_to_the_right() -> None:
    table = Table("t", ("a", "b", "c"), (("x", 1, "1"), ("y", None, 2)))
    assert [table.numeric(i) for i in range(3)] == [False, True, False]


def test_nested_facts_are_told_in_words_and_tables_within_are_left_to_json() -> None:
    facts = {"bad_files": {"max_share": 0.1}, "images": 3, "knn": [{"top1": 0.5}], "sizes": [1, 2]}
    assert list(flatten_facts(facts)) == [("bad files, max share", 0.1), ("images", 3), ("sizes", [1, 2])]


def test_the_seventh_curve_differs_from_the_first_whose_colour_it_has() -> None:
    looks = [(number % 6, plots.style_index(number)) for number in range(24)]
    assert len(set(looks)) == 24


def test_a_narrow_screen_shows_a_wide_table_as_a_block_for_each_row() -> None:
    rows = [EncoderResult("runs/a", "resnet18", 0.2, (0.1, 0.3), 0.5, (0.4, 0.6), 20, False, None)]
    html = knn_report(rows, images=100, settings={}, facts={}).to_html()
    names = [value for name, value in Page(html).attributes if name == "data-name"]
    assert names[:4] == ["Top-1", "95% interval", "vs. untrained", "Top-5"]
    assert html.count('<table class="stack">') == 1 and ".stack td::before { content: attr(data-name)" in html
