"""The report's style sheet: system fonts, light and dark, screen, phone and paper."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --panel: #f5f7f9; --ink: #1c2126; --quiet: #5a646e; --line: #dfe3e7;
  --s0: #0072b2; --s1: #d55e00; --s2: #009e73; --s3: #c05d92; --s4: #2f9bd6; --s5: #c98a00;
  --good: #00639b; --bad: #b34700; --hit: #e3f4ee; --hit-ink: #00644a; --warn: #fff4dc; --warn-ink: #7a4d00;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #14181c; --panel: #1c2227; --ink: #e4e8eb; --quiet: #9aa5af; --line: #323a42;
    --s0: #4fb0e8; --s1: #f28a4a; --s2: #35c399; --s3: #e29bc3; --s4: #8fd0f6; --s5: #efc14f;
    --good: #6cbef0; --bad: #f59d66; --hit: #14342b; --hit-ink: #6fdcba; --warn: #3a2d10; --warn-ink: #f3cd7d;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif;
}
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; letter-spacing: -0.015em; margin: 0; }
h2 { font-size: 1.3rem; letter-spacing: -0.01em; margin: 3.25rem 0 0.9rem; padding-top: 0.9rem;
     border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.9rem 0 0.3rem; }
p { max-width: 44rem; margin: 0.4rem 0 0.9rem; }
a { color: var(--good); text-decoration-thickness: 1px; text-underline-offset: 0.18em; }
code, pre, .id { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; }
.quiet, .note, figcaption span { color: var(--quiet); }
.note { font-size: 0.875rem; }
.good { color: var(--good); } .bad { color: var(--bad); } .muted { color: var(--quiet); }
.subtitle { color: var(--quiet); font-size: 1.05rem; margin: 0.35rem 0 0; }
nav { margin: 1.1rem 0 0; display: flex; flex-wrap: wrap; gap: 0.3rem 1.15rem; font-size: 0.925rem; }

.warnings { background: var(--warn); color: var(--warn-ink); border-left: 4px solid var(--s5); border-radius: 4px;
            margin: 1.5rem 0 0; padding: 0.75rem 1.1rem; }
.warnings ul { margin: 0.25rem 0 0; padding-left: 1.15rem; }
p.warning, td .warning { color: var(--warn-ink); }
p.warning::before, td .warning::before { content: "\\26A0\\FE0E\\00A0"; }

.headline { margin: 1.9rem 0 0; }
.headline .sentence { font-size: 1.45rem; line-height: 1.35; letter-spacing: -0.01em; max-width: 56rem;
                      margin: 0 0 0.6rem; text-wrap: balance; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 0.8rem; margin: 1.3rem 0 0; }
.tile { background: var(--panel); border-radius: 10px; padding: 0.8rem 1rem 0.75rem; }
.tile .label { font-size: 0.875rem; color: var(--quiet); }
.tile .value { font-size: 1.85rem; line-height: 1.2; font-weight: 600; letter-spacing: -0.02em;
               font-variant-numeric: tabular-nums; }
.tile .change { font-size: 0.9rem; font-variant-numeric: tabular-nums; }
.tile .change b { margin-right: 0.35rem; }

.scroll { overflow-x: auto; margin: 0.5rem 0 0.6rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.925rem; line-height: 1.4; }
table.narrow { width: auto; min-width: min(34rem, 100%); }
caption { caption-side: top; text-align: left; font-weight: 600; padding: 0.4rem 0 0.35rem; }
th { text-align: left; font-weight: 600; font-size: 0.85rem; color: var(--quiet); vertical-align: bottom;
     border-bottom: 1.5px solid var(--line); padding: 0.35rem 0.7rem; }
td { vertical-align: top; padding: 0.45rem 0.7rem; border-bottom: 1px solid var(--line); overflow-wrap: break-word; }
table.narrow td { overflow-wrap: anywhere; }
th:first-child, td:first-child { padding-left: 0; } th:last-child, td:last-child { padding-right: 0; }
table.marked :is(th, td).n { padding-right: max(0.7rem, var(--marks)); }
th.n, td.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td small { display: block; color: var(--quiet); font-size: 0.8rem; font-weight: 400; }
sup { font-size: 0.7em; line-height: 0; color: var(--quiet); font-weight: 400; margin-left: 0.1em; }
td.n sup { display: inline-block; width: 0; }
.bars { display: flex; gap: 1px; height: 5px; margin-top: 4px; min-width: 6rem; }
.bars i { display: block; border-radius: 1px; } .bars i.good { background: var(--s0); }
.bars i.bad { background: var(--s1); } .bars i.muted { background: var(--line); }

.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(25rem, 100%), 1fr)); gap: 1.4rem 2rem; }
figure { margin: 0.6rem 0 0.4rem; max-width: 34rem; break-inside: avoid;
         display: grid; grid-template-rows: subgrid; grid-row: span 2; row-gap: 0; }
figcaption { font-size: 0.875rem; line-height: 1.45; margin-bottom: 0.5rem; }
figcaption b { display: block; font-size: 0.95rem; }
figure svg { display: block; width: 100%; height: auto; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure svg text { font-family: inherit; fill: currentColor; }
.legend { display: flex; flex-wrap: wrap; gap: 0.1rem 1.1rem; font-size: 0.875rem; margin: 0.15rem 0 0.35rem; }
.legend svg { width: 30px; height: 10px; display: inline-block; margin-right: 0.4rem; vertical-align: baseline; }

details { margin: 0.55rem 0; }
summary { cursor: pointer; } summary:hover { color: var(--good); }
details.fold > summary { color: var(--good); font-size: 0.925rem; padding: 0.2rem 0; }
details.example { background: var(--panel); border-radius: 10px; }
details.example > summary { padding: 0.7rem 1rem; display: flex; gap: 0.8rem; align-items: baseline; list-style: none; }
details.example > summary::-webkit-details-marker { display: none; }
details.example > summary::after { content: "+"; margin-left: auto; color: var(--quiet); font-size: 1.1rem;
                                   line-height: 1; }
details.example[open] > summary::after { content: "\\2212"; }
.badge { font-weight: 600; font-variant-numeric: tabular-nums; white-space: nowrap; min-width: 4.1rem; flex: none; }
.query { font-weight: 500; overflow-wrap: anywhere; white-space: pre-line; }
.inside { padding: 0 1rem 1rem; }
.inside h4 { font-size: 0.85rem; color: var(--quiet); margin: 0.9rem 0 0.3rem; font-weight: 600; }
.id { font-size: 0.8rem; color: var(--quiet); overflow-wrap: anywhere; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 0 1.5rem; }
.inside ol, .inside ul { margin: 0; padding: 0; list-style: none; }
.doc { display: grid; grid-template-columns: 1.6rem 1fr; gap: 0 0.35rem; padding: 0.4rem 0.6rem; font-size: 0.875rem;
       line-height: 1.4; border-radius: 6px; border-left: 3px solid transparent; overflow-wrap: anywhere; }
.doc .rank { color: var(--quiet); font-variant-numeric: tabular-nums; text-align: right; padding-right: 0.25rem; }
.doc.hit { background: var(--hit); border-left-color: var(--s2); }
ul .doc { grid-template-columns: 1fr; }
.grade { color: var(--hit-ink); font-weight: 600; font-size: 0.8rem; white-space: nowrap; }
.meta { font-size: 0.8rem; color: var(--quiet); font-variant-numeric: tabular-nums; }
pre { background: var(--panel); border-radius: 8px; padding: 0.9rem 1.1rem; font-size: 0.85rem; line-height: 1.5;
      overflow-x: auto; margin: 0.4rem 0 0.9rem; }
footer { margin-top: 3.5rem; padding-top: 0.9rem; border-top: 1px solid var(--line); color: var(--quiet);
         font-size: 0.85rem; }

@media (max-width: 40rem) {
  main { padding: 1.5rem 1rem 3rem; }
  h1 { font-size: 1.55rem; } .headline .sentence { font-size: 1.2rem; }
  .tiles { grid-template-columns: 1fr 1fr; gap: 0.6rem; } .tile { padding: 0.6rem 0.8rem; }
  .tile .value { font-size: 1.5rem; }
  .tile:first-child:nth-last-child(odd) { grid-column: 1 / -1; }
  th, td { padding-left: 0.45rem; padding-right: 0.45rem; }
  .inside, details.example > summary { padding-left: 0.75rem; padding-right: 0.75rem; }
  details.example > summary { gap: 0.5rem; }
  .doc { grid-template-columns: 1rem 1fr; padding-left: 0.3rem; padding-right: 0.3rem; }
}
@media print {
  body { font-size: 10.5pt; } main { max-width: none; padding: 0; } nav { display: none; }
  h2, h3, h4, caption { break-after: avoid; }
  .plots { grid-template-columns: 1fr 1fr; }
  tr, .tile, .doc, details.example > summary { break-inside: avoid; }
  pre { white-space: pre-wrap; } .scroll { overflow: visible; }
  details::details-content { content-visibility: visible; display: block; }
  .tile, .bars i, .doc.hit, .warnings, details.example, pre {
    print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
