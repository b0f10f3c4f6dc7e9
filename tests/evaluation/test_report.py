"""The report: everything is there, nothing is executable, the same input gives the same bytes, both twins agree."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from rankwright.errors import UsageError
from rankwright.evaluation import plots
from rankwright.evaluation.report import (
    Curve,
    DataCheck,
    PairedResult,
    QueryExample,
    RankedDoc,
    RelevantDoc,
    Report,
    SystemResult,
    Timing,
    write_report,
)
from rankwright.evaluation.report_blocks import clean
from rankwright.evaluation.report_sections import _depth

VOID = {"meta", "br", "path", "use", "rect", "image", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Reads a page: its text, tags, attributes and ids, and whether every tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def system(name: str, values: list[float], *, dataset: str = "SciFact", depths=(1, 10, 100)) -> SystemResult:
    mean = sum(values) / len(values)
    per_query = {f"q{i}": value for i, value in enumerate(values)}
    return SystemResult(
        name=name,
        dataset=dataset,
        split="test",
        means={"nDCG@10": mean, "R@100": mean / 2 + 0.5},
        intervals={"nDCG@10": (mean - 0.05, mean + 0.05)},
        per_query={"nDCG@10": per_query, "R@100": {q: v / 2 + 0.5 for q, v in per_query.items()}},
        note=f"notes on {name}",
        recall_by_depth={k: min(1.0, mean * (1 + math.log10(k))) for k in depths},
    )


def full(**changes) -> Report:
    before = [0.1 * (i % 8) for i in range(40)]
    after = [min(1.0, value + (0.3 if i % 3 == 0 else -0.05 if i % 7 == 1 else 0)) for i, value in enumerate(before)]
    systems = [system("BM25", [0.42] * 40), system("untouched", before), system("trained", after)]
    difference = systems[2].means["nDCG@10"] - systems[1].means["nDCG@10"]
    example = QueryExample(
        "q3",
        "does aspirin thin blood",
        0.3,
        [RelevantDoc("d1", "Aspirin and platelets", 2)],
        [RankedDoc("d9", "Another drug", 0.71), RankedDoc("d8", "A third", 0.66, 0)],
        [RankedDoc("d1", "Aspirin and platelets", 0.93, 2), RankedDoc("d9", "Another drug", 0.70)],
    )
    report = Report(
        title="A title",
        subtitle="a subtitle",
        headline_measure="nDCG@10",
        systems=systems,
        comparisons=[
            PairedResult("untouched", "trained", "nDCG@10", difference, (0.031, 0.157), 0.00042, 0.00084, 14, 20, 6),
            PairedResult("BM25", "trained", "nDCG@10", -0.012, (-0.05, 0.026), 0.41, 0.41, 15, 5, 20),
        ],
        training=[Curve("loss", "step", list(range(900)), [2 / (1 + i / 90) + (i % 3) / 9 for i in range(900)])],
        validation=[Curve("nDCG@10", "step", [0, 300, 600, 900], [0.641, 0.688, 0.699, 0.703])],
        examples_best=[example],
        examples_worst=[replace(example, query_id="q1", query="a lost query", difference=-0.05)],
        data_checks=[DataCheck("documents", 5183), DataCheck("truncated", "62.1%", "raise doc_length")],
        timings=[Timing("encode", 118.0, True), Timing("train", 271.3)],
        environment={"torch": "2.13.0"},
        recipe_yaml="model: {Dense: {backbone: tiny}}",
        paths={"model": "runs/a/model"},
        warnings=["3 queries have no document"],
        reproduce="rankwright run recipe.yaml",
        test="paired t-test",
    )
    return replace(report, **changes)


def written(folder, report: Report) -> tuple[str, str]:
    html_path, markdown_path = write_report(folder, report)
    assert (html_path.name, markdown_path.name) == ("report.html", "report.md")
    return html_path.read_text(), markdown_path.read_text()


@pytest.fixture
def undrawn(monkeypatch):
    """For tests of the words: plots cost most of the time."""
    monkeypatch.setattr(plots, "available", lambda: False)


@pytest.fixture
def without_matplotlib(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def test_every_part_is_there(tmp_path):
    html, markdown = written(tmp_path, full())
    page = Page(html)
    titles = ["Results", "Per query and by depth", "Best and worst queries", "Training", "Data check", "Timings",
              "Recipe", "Environment", "Files"]  # fmt: skip
    for title in titles:
        assert title in page.text
        assert f"## {title}\n" in markdown
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    anchors = {attrs["id"] for tag, attrs in page.tags if tag == "section"}
    assert len(links) == len(titles)
    assert {link[1:] for link in links} == anchors
    for text in ("A title", "a subtitle", "3 queries have no document", "does aspirin thin blood", "a lost query",
                 "Aspirin and platelets", "raise doc_length", "5,183", "4m31s", "2.13.0", "model: {Dense",
                 "runs/a/model", "rankwright run recipe.yaml", "notes on BM25"):  # fmt: skip
        assert text in page.text, text
        assert text in markdown, text
    assert html.index("3 queries have no document") < html.index("rises from")  # warnings come first


def test_headline_in_plain_words(tmp_path, undrawn):
    html, markdown = written(tmp_path, full())
    sentence = (
        "nDCG@10 rises from 0.350 to 0.450 on SciFact test "
        "(+0.100, 95% interval [+0.031, +0.157]; p = 0.0008, Holm-corrected)."
    )
    assert sentence in Page(html).text
    assert f"**{sentence}**" in markdown
    assert "Of 40 queries, 14 get better, 20 stay the same and 6 get worse." in markdown
    assert "chance" not in markdown


def test_headline_does_not_boast(tmp_path, undrawn):
    first, *rest = full().comparisons
    _, markdown = written(tmp_path, full(comparisons=[replace(first, p_holm=0.0501), *rest]))
    assert "may well be chance" in markdown
    trained, untouched = full().systems[2], full().systems[1]
    falling = PairedResult("trained", "untouched", "nDCG@10", -0.099, (-0.157, -0.031), 0.001, 0.001, 6, 20, 14)
    _, markdown = written(tmp_path, full(systems=[trained, untouched], comparisons=[falling]))
    assert "nDCG@10 falls from 0.450 to 0.350" in markdown
    assert "p = 0.001)" in markdown  # one comparison: nothing to correct


def test_significance_marks_name_the_beaten_system(tmp_path, undrawn):
    _, markdown = written(tmp_path, full())
    rows = [line for line in markdown.splitlines() if "notes on" in line]
    assert rows[2].startswith("| c | trained (notes on trained) | **0.450** <sup>b</sup> [0.400, 0.500] |")
    assert "<sup>" not in rows[0] + rows[1]
    lost = PairedResult("BM25", "trained", "nDCG@10", -0.2, (-0.3, -0.1), 0.001, 0.002, 1, 2, 37)
    _, markdown = written(tmp_path, full(comparisons=[lost]))
    rows = [line for line in markdown.splitlines() if "notes on" in line]
    assert "<sup>c</sup>" in rows[0]
    assert "<sup>" not in rows[1] + rows[2]


def test_both_twins_hold_the_same_numbers(tmp_path, undrawn):
    """Every number of a Markdown table stands in the page's text, and every table cell of the page in the Markdown."""
    html, markdown = written(tmp_path, full())
    page = Page(html)
    tables = "\n".join(line for line in markdown.splitlines() if line.startswith("|"))
    for figure in set(re.findall(r"[+−]?\d[\d,]*\.\d+", tables)):
        assert figure in page.text, figure
    without_svg = re.sub(r"<svg.*?</svg>", "", html, flags=re.DOTALL)
    for figure in set(re.findall(r"[+−]\d\.\d{3}\b|\b0\.\d{3}\b", Page(without_svg).text)):
        assert figure in markdown, figure


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'></style><svg/onload=alert(1)>",
    "</pre></code><iframe src=https://evil.example>",
    "&lt;b&gt; &amp; <!-- --> ]]> $x^2$ \\",
    "a | b\n| c | d |\n# heading\n```\nfence",
    "![x](https://evil.example/a.png) [y](javascript:alert(1)) <https://evil.example>",
    "\x00\x1b[31m \ud800 \u202e \x85",
    "_private $\\frac{1}$ {{7*7}} %s {0}",
]


@pytest.fixture(scope="module")
def usual_tags(tmp_path_factory) -> set[str]:
    return {tag for tag, _ in Page(written(tmp_path_factory.mktemp("usual"), full())[0]).tags}


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_only_texts(tmp_path, usual_tags, text):
    base = full()
    systems = [replace(s, name=f"{s.name} {text}", note=text, dataset=text, split=text) for s in base.systems]
    comparisons = [replace(c, baseline=f"{c.baseline} {text}", system=f"{c.system} {text}") for c in base.comparisons]
    example = QueryExample(text, text, 0.1, [RelevantDoc(text, text, 1)], [RankedDoc(text, text, 0.5, 1)], [])
    curve = Curve(text, text, [1, 2, 3], [1, 2, 3])
    html, markdown = written(
        tmp_path,
        Report(
            title=text, subtitle=text, headline_measure="nDCG@10", systems=systems, comparisons=comparisons,
            training=[curve], validation=[curve], examples_best=[example], examples_worst=[example],
            data_checks=[DataCheck(text, text, text)], timings=[Timing(text, 1.0)], environment={text: text},
            recipe_yaml=text, paths={text: text}, warnings=[text], reproduce=text, test=text,
        ),
    )  # fmt: skip
    page = Page(html)
    assert {tag for tag, _ in page.tags} <= usual_tags
    assert_self_contained(html)
    visible = " ".join(clean(text).split())
    assert page.text.count(visible) >= 15
    assert "\ud800" not in html
    outside = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    assert not re.findall(r"<(?!/?sup>)", outside)
    assert "](" not in outside.replace("\\](", "")
    assert len(re.findall(r"^# ", outside, flags=re.MULTILINE)) == 1
    for rows in re.findall(r"(?:^\|.*\n?)+", outside, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows.splitlines()}) == 1


def assert_self_contained(html: str) -> None:
    """Nothing runs, nothing is fetched."""
    page = Page(html)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    for _, attrs in page.tags:
        for name, value in attrs.items():
            assert not name.startswith("on"), name
            assert name not in {"src", "srcset", "action", "formaction", "data", "poster"}, name
            if name.endswith("href"):
                assert (value or "").startswith("#"), value
            if name != "aria-label":
                assert "://" not in (value or ""), value
    style = "".join(re.findall(r"<style>(.*?)</style>", html, flags=re.DOTALL))
    assert "@import" not in style
    assert "url(" not in style
    assert "default-src 'none'" in html


def test_self_contained(tmp_path):
    html, _ = written(tmp_path, full())
    assert_self_contained(html)
    assert html.count("<style") == 1  # a drawing's own style would reach the whole page
    assert "http:" not in html
    assert "https:" not in html


def test_plots_are_inline_and_follow_the_page(tmp_path):
    pytest.importorskip("matplotlib")
    html, _ = written(tmp_path, full())
    drawings = re.findall(r'<svg role="img".*?</svg>', html, flags=re.DOTALL)
    assert len(drawings) == 4  # differences, recall, training, validation
    assert all("currentColor" in svg and "var(--line)" in svg and "var(--s0)" in svg for svg in drawings)
    assert not any(re.search(r"fill: (#fff|white)|metadata|dc:date", svg) for svg in drawings)
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', "".join(drawings)))
    assert used
    assert used <= set(ids)


def test_same_report_same_bytes(tmp_path):
    assert written(tmp_path / "a", full()) == written(tmp_path / "b", full())


def test_without_matplotlib(tmp_path, without_matplotlib):
    assert not plots.available()
    html, markdown = written(tmp_path, full())
    assert "<figure>" not in html
    for text in (Page(html).text, markdown):
        assert "pip install 'rankwright[plots]'" in text
        assert "Largest gains" in text
        assert "Recall by depth in numbers" in text
        assert "0.703" in text  # the last validation value


def test_markdown_does_not_depend_on_matplotlib(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    _, drawn = written(tmp_path, full())
    monkeypatch.setattr(plots, "available", lambda: False)
    _, plain = written(tmp_path, full())
    assert [line for line in plain.splitlines() if "matplotlib" not in line and line] == [
        line for line in drawn.splitlines() if line
    ]


EMPTY = {
    "nothing": Report("t", "", "nDCG@10", []),
    "one system": Report("t", "", "nDCG@10", [system("only", [0.5, 0.7])]),
    "no curves": full(training=[], validation=[]),
    "no comparisons": full(comparisons=[], examples_best=[], examples_worst=[]),
    "no depths": full(systems=[replace(s, recall_by_depth={}) for s in full().systems]),
    "one depth": full(systems=[replace(s, recall_by_depth={10: 0.5}) for s in full().systems]),
    "no intervals": full(systems=[replace(s, intervals={}) for s in full().systems]),
    "no values per query": full(systems=[replace(s, per_query={}) for s in full().systems]),
    "one point": full(training=[Curve("loss", "step", [1], [2.0])]),
    "no points": full(training=[Curve("loss", "step", [], [])]),
    "not numbers": full(
        training=[Curve("loss", "step", [1, 2], [math.nan, math.inf])],
        systems=[replace(s, means={**s.means, "AP": math.nan}) for s in full().systems],
        comparisons=[replace(full().comparisons[0], p=math.nan, p_holm=math.nan, interval=(math.nan, math.nan))],
    ),
    "equal systems": full(
        systems=[system("a", [0.5, 0.5]), system("b", [0.5, 0.5])],
        comparisons=[PairedResult("a", "b", "nDCG@10", 0.0, (0.0, 0.0), 1.0, 1.0, 0, 2, 0)],
    ),
    "another measure leads nowhere": full(headline_measure="R@100"),
}


@pytest.mark.parametrize("name", EMPTY)
def test_empty_parts(tmp_path, name):
    html, markdown = written(tmp_path, EMPTY[name])
    Page(html)
    assert_self_contained(html)
    assert "nan" not in markdown.lower()
    assert "None" not in markdown
    for title in re.findall(r"^## (.*)$", markdown, flags=re.MULTILINE):
        assert f"<h2>{title}</h2>" in html


def test_words_of_the_small_reports(tmp_path, undrawn):
    assert "Nothing was evaluated." in written(tmp_path, EMPTY["nothing"])[1]
    one = written(tmp_path, EMPTY["one system"])[1]
    assert "only reaches nDCG@10 0.600 on SciFact test (95% interval [0.550, 0.650])." in one
    assert "Holm" not in one
    assert "nDCG@10 stays at 0.500" in written(tmp_path, EMPTY["equal systems"])[1]


def test_several_data_sets(tmp_path):
    systems = [
        system(name, values, dataset=dataset)
        for dataset in ("SciFact", "NFCorpus")
        for name, values in (("before", [0.2, 0.4]), ("after", [0.5, 0.3]))
    ]
    pair = PairedResult("before", "after", "nDCG@10", 0.1, (-0.1, 0.3), 0.3, 0.3, 1, 0, 1)
    comparisons = [replace(pair, dataset=dataset, split="test") for dataset in ("SciFact", "NFCorpus")]
    html, markdown = written(tmp_path, full(systems=systems, comparisons=comparisons))
    for text in ("SciFact · test · 2 queries", "NFCorpus · test · 2 queries", "Differences on NFCorpus test"):
        assert text in markdown
        assert text in Page(html).text
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    with pytest.raises(UsageError, match="fits 2 pairs"):
        full(systems=systems, comparisons=[pair])


def test_what_does_not_fit_is_refused():
    base = full()
    with pytest.raises(UsageError, match="fits 0 pairs"):
        replace(base, comparisons=[replace(base.comparisons[0], system="traind")])
    with pytest.raises(UsageError, match="headline measure"):
        replace(base, headline_measure="nDCG@5")
    with pytest.raises(UsageError, match="twice"):
        replace(base, systems=[*base.systems, base.systems[0]])
    with pytest.raises(UsageError, match="2 steps but 1 values"):
        Curve("loss", "step", [1, 2], [0.5])


def test_examples_show_movement_and_highlight(tmp_path, undrawn):
    html, markdown = written(tmp_path, full())
    assert "rank below 2 → 1" in markdown
    assert "**Aspirin and platelets (d1, score 0.930, relevant, grade 2)**" in markdown
    assert "A third (d8, score 0.660, grade 0)" in markdown
    page = Page(html)
    hits = [attrs for tag, attrs in page.tags if tag == "li" and "hit" in (attrs.get("class") or "")]
    assert len(hits) == 4  # in each example once as relevant and once in the ranking after
    assert "nDCG@10 0.300 → 0.600" in page.text  # q3: a third of the way up


def test_time_per_query_and_definitions_stand_with_the_numbers(tmp_path, undrawn):
    systems = [replace(system("BM25", [0.4, 0.5]), latency=0.00123), system("other", [0.2, 0.5])]
    told = {"SciFact test": "nDCG@10: gain = grade."}
    _, markdown = written(tmp_path, full(systems=systems, comparisons=[], definitions=told))
    table = markdown[markdown.index("SciFact · test") :]
    assert "ms per query" in table
    assert "1.23" in table
    assert "nDCG@10: gain = grade." in table
    assert "ms per query" not in written(tmp_path, full())[1]


def test_recall_by_depth_shows_every_system(monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "available", lambda: True)
    for name in ("differences", "curve"):
        monkeypatch.setattr(plots, name, lambda *_, **__: ("<svg></svg>", ""))
    monkeypatch.setattr(plots, "recall", lambda _, lines: drawn.append(lines) or "<svg></svg>")
    names = [f"system {i}" for i in range(5)]
    systems = [system(name, [0.1 * i, 0.5]) for i, name in enumerate(names, start=1)]
    (plot, fold) = _depth(full(systems=systems, comparisons=[]))
    assert [name for name, _ in plot.legend] == names
    assert drawn == [[sorted(one.recall_by_depth.items()) for one in systems]]
    assert list(fold.blocks[0].columns) == ["k", *names]
