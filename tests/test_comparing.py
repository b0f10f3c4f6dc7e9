"""`compare`: its tests are scipy's, Holm is by hand, tables say the same in four formats, the folder is complete."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rankwright import storage
from rankwright.cli import main
from rankwright.comparing import compare_runs
from rankwright.errors import UsageError
from rankwright.evaluation import Evidence, plots
from rankwright.evaluation.report_blocks import Cell, Table
from rankwright.evaluation.report_tables import FORMATS, render_tables
from rankwright.types import Qrels, Run

MEASURES = ["nDCG@10", "RR@10", "R@5"]


def made() -> tuple[dict[str, Run], Qrels]:
    """Three systems over 30 queries: what is relevant is found sooner by each."""
    rng = np.random.default_rng(0)
    queries = [f"q{i}" for i in range(30)]
    grades = {q: {f"{q}d{j}": int(rng.integers(0, 3)) for j in range(12)} | {f"{q}d0": 1} for q in queries}
    runs = {
        name: Run.from_dict({q: {d: noise * rng.normal() + g for d, g in grades[q].items()} for q in queries})
        for name, noise in (("bm25", 3.0), ("a_b", 1.5), ("c%d", 1.0))
    }
    return runs, Qrels.from_dict(grades)


def test_p_values_are_scipys_and_holm_is_by_hand():
    scipy = pytest.importorskip("scipy.stats")
    runs, qrels = made()
    found = compare_runs(runs, Evidence(qrels), MEASURES, baseline="bm25")
    by_hand = []
    for system in ("a_b", "c%d"):
        for measure in found.scores["bm25"].measures:
            result = found.comparison.find(system, measure)
            a, b = (found.scores[name].column(measure) for name in (system, "bm25"))
            assert result.p == pytest.approx(scipy.ttest_rel(a, b).pvalue, rel=1e-9)
            assert result.statistic == pytest.approx(scipy.ttest_rel(a, b).statistic, rel=1e-9)
            assert (result.wins, result.losses) == (int((a > b + 1e-12).sum()), int((a < b - 1e-12).sum()))
            by_hand.append((result.p, result.p_holm))
    largest = 0.0
    for rank, (p, p_holm) in enumerate(sorted(by_hand)):  # the smallest times 6, the next times 5, never falling
        largest = max(largest, min(1.0, p * (len(by_hand) - rank)))
        assert p_holm == pytest.approx(largest, rel=1e-12)
    assert len({p for p, _ in by_hand}) == 6


def test_as_published_each_p_stands_for_itself():
    runs, qrels = made()
    found = compare_runs(runs, Evidence(qrels), MEASURES, baseline="bm25", correction="none")
    assert [c.p_holm for c in found.comparison] == [c.p for c in found.comparison]
    assert found.comparison.to_json()["correction"] == "none"
    text = render_tables(found.report, "text")
    assert "p (Holm)" not in text
    assert "not corrected for the number of tests" in text
    assert "Holm" not in text
    assert "p (Holm)" in render_tables(compare_runs(runs, Evidence(qrels), MEASURES, baseline="bm25").report, "text")


def test_baseline_test_and_level_are_as_asked():
    runs, qrels = made()
    judged = Evidence(qrels)
    found = compare_runs(runs, judged, ["nDCG@3"], baseline="c%d", test="randomisation", level=0.9, rounds=500, seed=3)
    assert {(c.baseline, c.system) for c in found.comparison} == {("c%d", "bm25"), ("c%d", "a_b")}
    assert all(c.p >= 1 / 501 for c in found.comparison)
    text = render_tables(found.report, "markdown")
    assert "90% interval" in text
    assert "paired randomisation test" in text
    low, high = found.report.systems[0].intervals["nDCG@3"]
    wide = compare_runs(runs, judged, ["nDCG@3"], baseline="c%d", level=0.99).report.systems[0].intervals["nDCG@3"]
    assert wide[0] < low < found.report.systems[0].means["nDCG@3"] < high < wide[1]
    with pytest.raises(UsageError):
        compare_runs(runs, Evidence(qrels), ["nDCG@3"], baseline="c%d", level=1.5)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_says_the_same(kind):
    runs, qrels = made()
    report = compare_runs(runs, Evidence(qrels), MEASURES, baseline="bm25", collection="test").report
    text = render_tables(report, kind)
    for system in report.systems:
        for value in system.means.values():
            assert f"{value:.3f}" in text
    for c in report.comparisons:
        assert f"{abs(c.difference):.3f}" in text
        assert f"{c.wins} / {c.ties} / {c.losses}" in text
    assert text.count("95%") >= 1 or kind == "latex"


def test_latex_is_escaped_and_aligned():
    hard = "50% of $x_i$ & {a} \\ ~^# −1 – → · … <b>"
    tables = [
        Table(("System", "R_1"), [[Cell(hard), Cell("0.5", mark="ab", small="[0, 1]", strong=True)]], frozenset({1}))
    ]
    text = FORMATS["latex"](tables)
    assert r"\begin{tabular}{lr}" in text
    assert r"System & R\_1 \\" in text
    assert r"50\% of \$x\_i\$ \& \{a\} \textbackslash{} \textasciitilde{}\textasciicircum{}\#" in text
    assert r"\textbf{0.5}\textsuperscript{ab} {\scriptsize [0, 1]} \\" in text
    assert text.isascii()
    assert text.count("{") == text.count("}")


def test_one_judged_query_has_no_tests():
    runs, qrels = made()
    one = Qrels.from_dict({"q1": qrels.to_dict()["q1"]})
    found = compare_runs(runs, Evidence(one), MEASURES, baseline="bm25")
    assert len(found.comparison) == 0
    assert "bm25" in render_tables(found.report, "text")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rankwright.data import write_qrels, write_run

    monkeypatch.chdir(tmp_path)
    runs, qrels = made()
    for name, run in zip(("bm25", "a_b", "c"), runs.values()):
        write_run(Path(f"{name}.trec"), run)
    write_qrels(Path("test.tsv"), qrels)


def test_the_command_and_its_folder(files, capsys):
    words = ["compare", "bm25.trec", "a_b.trec", "c.trec", "--qrels", "test.tsv"]
    main([*words, "--out", "out", "--baseline", "a_b.trec"])
    said = capsys.readouterr().out
    assert "a_b → bm25" in said
    assert "next:" in said
    names = {path.name for path in Path("out").iterdir()}
    assert {"report.html", "report.md", "tables.tex", "comparison.json", "per_query.tsv"} <= names
    assert storage.verify("out", "comparison", full=True)
    rows = Path("out/per_query.tsv").read_text().splitlines()
    assert rows[0] == "query\tmeasure\ta_b\tbm25\tc"
    assert len(rows) == 1 + 3 * 30
    if plots.available():
        assert {"difference-1-bm25.pdf", "difference-2-c.pdf"} <= names
        assert Path("out/difference-1-bm25.pdf").read_bytes().startswith(b"%PDF")
        assert Path("out/report.html").read_text().count("<svg") >= 2
    first = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    main([*words, "--out", "out", "--baseline", "a_b"])
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == first
    capsys.readouterr()
    main([*words, "--format", "latex"])
    shown = capsys.readouterr()
    assert shown.out.startswith("% needs")
    assert "next" not in shown.out
    assert "next: " in shown.err
    main([*words, "--json", "--test", "randomisation", "--rounds", "200", "--correction", "none"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["comparison"]["test"] == "randomisation"
    assert facts["comparison"]["correction"] == "none"
    assert facts["comparison"]["results"][0]["baseline"] == "bm25"


@pytest.mark.parametrize(
    "more",
    [["bm25.trec"], ["bm25.trec", "bm25.trec"], ["bm25.trec", "c.trec", "--baseline", "x"],
     ["bm25.trec", "c.trec", "--out", "c.trec"], ["bm25.trec", "c.trec", "--level", "2"]],
)  # fmt: skip
def test_usage(files, capsys, more):
    with pytest.raises(SystemExit) as caught:
        main(["compare", *more, "--qrels", "test.tsv"])
    assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
