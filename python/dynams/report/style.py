"""The look of the report: colours with a light and a dark value each, and the page's style sheet.

Every colour is a CSS custom property, in the text and in the figures alike, so one page serves
both colour schemes. Blue is the full width, orange the proxy, magenta the selection, everywhere.
"""

from __future__ import annotations

from dynams.cost.purposes import OTHER, TABLE

COLOURS: dict[str, tuple[str, str]] = {
    "page": ("#fbfaf7", "#131518"),
    "card": ("#ffffff", "#1b1e22"),
    "ink": ("#1c1f24", "#e8e9eb"),
    "muted": ("#5f6670", "#a0a7b1"),
    "rule": ("#e2dfd7", "#31353b"),
    "grid": ("#eeece6", "#262a2f"),
    "full": ("#2b5fcc", "#7ba4fb"),
    "proxy": ("#c95f0d", "#f0a35e"),
    "selection": ("#b3246b", "#f27fb5"),
    "scoring": ("#128073", "#4dc4b4"),
    "data": ("#7757b8", "#b79df2"),
    "evaluation": ("#8a7b0c", "#d3c254"),
    "other": ("#70767f", "#868d97"),
    "under": ("#3d6b9e", "#77a7dc"),
    "good": ("#1f7a46", "#63c98f"),
    "warn": ("#a4520a", "#f0a35e"),
    "shade": ("#00000040", "#e8e9eb48"),
}

_SPARE_COLOURS = ("under", "good", "warn")


def purpose_colour(purpose: str, position: int) -> str:
    """The colour name of a purpose of cost; unknown purposes take turns by ``position``."""
    if purpose == OTHER:
        return OTHER
    known = TABLE.get(purpose)
    return _SPARE_COLOURS[position % len(_SPARE_COLOURS)] if known is None else known.colour


def _properties(scheme: int) -> str:
    return " ".join(f"--{name}: {values[scheme]};" for name, values in COLOURS.items())


STYLE_SHEET = (
    f":root {{ color-scheme: light dark; {_properties(0)} }}\n"
    f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {_properties(1)} }} }}\n"
    """\
@media print { :root { color-scheme: light; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  overflow-wrap: break-word;
}
.wrap { max-width: 68rem; margin: 0 auto; padding: 0 1.5rem; }
header.wrap { padding-top: 3rem; }
/* A figure's larger type on a phone may reach into the page's edge, not beyond it. */
main { overflow-x: clip; }
.eyebrow {
  margin: 0; color: var(--muted); font-size: .8rem; font-weight: 600;
  letter-spacing: .08em; text-transform: uppercase;
}
h1 {
  margin: .2rem 0 .4rem; font-size: clamp(1.7rem, 5vw, 2.5rem); line-height: 1.15;
  letter-spacing: -.02em; overflow-wrap: anywhere;
}
.what { margin: 0; color: var(--muted); display: flex; flex-wrap: wrap; gap: .35rem .9rem;
  align-items: baseline; }
.what span { min-width: 0; overflow-wrap: anywhere; }
.state { font-size: .8rem; font-weight: 600; padding: .1rem .6rem; border-radius: 1rem;
  border: 1px solid currentColor; }
.state.good { color: var(--good); }
.state.warn { color: var(--warn); }
nav { position: sticky; top: 0; z-index: 1; margin-top: 1.6rem; background: var(--page);
  border-bottom: 1px solid var(--rule); }
nav .wrap { display: flex; flex-wrap: wrap; gap: 0 1.4rem; }
nav a { color: var(--muted); text-decoration: none; font-size: .88rem; padding: .65rem 0; }
nav a:hover, nav a:focus-visible { color: var(--ink); text-decoration: underline;
  text-underline-offset: .3em; }
section { padding: 2.4rem 0 .4rem; scroll-margin-top: 2rem; }
h2 { margin: 0 0 .3rem; font-size: 1.35rem; line-height: 1.3; letter-spacing: -.01em; }
h3 { margin: 0; font-size: .98rem; line-height: 1.35; }
h3.apart { margin-top: 2rem; }
h2 + .figures, h2 + .side, h2 + .settings { margin-top: .9rem; }
.lede { margin: 0 0 1.2rem; color: var(--muted); max-width: 46rem; }
.note { color: var(--muted); font-size: .88rem; max-width: 46rem; margin: .6rem 0 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(12.5rem, 1fr));
  gap: 1rem; margin: 0; padding: 1.6rem 0 0; }
.tile { background: var(--card); border: 1px solid var(--rule); border-radius: .6rem;
  padding: .9rem 1.1rem 1rem; border-top: 3px solid var(--tone, var(--rule)); }
.tile dt { color: var(--muted); font-size: .85rem; }
.tile dd { margin: 0; }
.tile .value { font-size: 1.85rem; font-weight: 650; letter-spacing: -.02em; line-height: 1.3;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
.tile .value small { font-size: .6em; font-weight: 500; letter-spacing: 0; }
.tile .aside { color: var(--muted); font-size: .85rem; line-height: 1.4; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr));
  gap: 1.25rem; }
figure { margin: 0; background: var(--card); border: 1px solid var(--rule);
  border-radius: .6rem; padding: .9rem 1rem .7rem; min-width: 0; }
figure svg { display: block; overflow: visible; width: 100%; height: auto; margin-top: .4rem; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  font-variant-numeric: tabular-nums; }
figcaption .note { margin: .15rem 0 0; font-size: .83rem; line-height: 1.45; }
.keys { display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: .15rem 0 0; padding: 0;
  list-style: none; color: var(--muted); font-size: .83rem; }
.keys li { min-width: 0; }
.keys li::before { content: ""; display: inline-block; width: .7em; height: .7em;
  margin-right: .4em; border-radius: .15em; background: var(--tone); }
.keys li.line::before { height: .18em; vertical-align: .25em; width: 1.1em; border-radius: 0; }
.keys li.faint::before { opacity: .35; }
.keys li.dash::before { height: 0; vertical-align: .3em; width: 1.1em; background: none;
  border-top: 2px dashed var(--tone); border-radius: 0; }
.stack { display: flex; gap: 2px; height: 2.6rem; margin: 0 0 1rem; border-radius: .4rem;
  overflow: hidden; }
.stack span { background: var(--tone); color: var(--card); font-size: .8rem; font-weight: 600;
  line-height: 2.6rem; min-width: 2px; overflow: hidden; display: flex; flex-wrap: wrap; }
/* A name that does not fit wraps below this strut, out of sight. */
.stack span::before { content: ""; height: 100%; width: 0; }
.stack b { flex: none; padding: 0 .6rem; font-weight: inherit; white-space: nowrap; }
.side { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr));
  gap: 1.25rem; align-items: start; }
.side > * { min-width: 0; }
/* Shadows at the edges where a table goes on. Covers of the page's colour scroll with the table and
   hide them where it ends. */
.scroll { overflow-x: auto;
  background: linear-gradient(to right, var(--page) 40%, transparent) left / 2.4rem 100% local,
    linear-gradient(to left, var(--page) 40%, transparent) right / 2.4rem 100% local,
    linear-gradient(to right, var(--shade), transparent) left / .9rem 100% scroll,
    linear-gradient(to left, var(--shade), transparent) right / .9rem 100% scroll;
  background-color: var(--page); background-repeat: no-repeat; }
.scroll:focus-visible { outline: 2px solid var(--full); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .36rem .7rem; text-align: left; border-bottom: 1px solid var(--rule);
  vertical-align: baseline; }
th:first-child, td:first-child { padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
thead th { color: var(--muted); font-weight: 600; font-size: .82rem; white-space: nowrap; }
tbody th { font-weight: 500; }
.scroll tbody th { min-width: 7rem; }
tfoot td, tfoot th { font-weight: 650; border-bottom: 0; }
.n { text-align: right; white-space: nowrap; }
.dot::before { content: ""; display: inline-block; width: .7em; height: .7em; margin-right: .6em;
  border-radius: .15em; background: var(--tone); }
.heat td { border-bottom: 2px solid var(--page); border-left: 2px solid var(--page);
  padding: .3rem .6rem; }
.heat tbody th { white-space: nowrap; max-width: 14rem; overflow: hidden;
  text-overflow: ellipsis; }
.heat .gap td, .heat .gap th { color: var(--muted); font-size: .83rem; font-style: italic; }
.over { background: color-mix(in srgb, var(--selection) var(--t), transparent); }
.under { background: color-mix(in srgb, var(--under) var(--t), transparent); }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(4.5rem, 1fr));
  gap: .9rem .8rem; margin: .7rem 0 1.6rem; padding: 0; list-style: none; }
.pictures img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain;
  border-radius: .3rem; background: var(--grid); image-rendering: pixelated; }
.pictures img.smooth { image-rendering: auto; }
.pictures .class { display: block; font-size: .83rem; line-height: 1.3; margin-top: .3rem;
  overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.pictures .margin { display: block; color: var(--muted); font-size: .8rem; line-height: 1.3;
  font-variant-numeric: tabular-nums; }
details { margin: 1rem 0; }
summary { cursor: pointer; color: var(--muted); font-size: .92rem; padding: .3rem 0; }
details[open] summary { margin-bottom: .4rem; }
.settings { columns: 22rem; column-gap: 2rem; margin-top: .8rem; }
.settings > div { break-inside: avoid; padding-bottom: 1.4rem; }
.settings table { table-layout: fixed; }
.settings td { text-align: right; overflow-wrap: anywhere; font-family: ui-monospace,
  SFMono-Regular, Menlo, Consolas, monospace; font-size: .82rem; }
.settings th { width: 45%; overflow-wrap: anywhere; color: var(--muted); font-weight: 400; }
footer.wrap { color: var(--muted); font-size: .82rem; padding-top: 2rem; padding-bottom: 3rem; }
@media (max-width: 40rem) {
  .wrap { padding: 0 1rem; }
  header.wrap { padding-top: 1.8rem; }
  nav { position: static; }
  section { scroll-margin-top: 0; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .6rem; }
  .tile { padding: .7rem .8rem .8rem; }
  .tile .value { font-size: 1.35rem; white-space: normal; }
  .heat tbody th { max-width: 8rem; }
  figure { padding: .7rem .6rem .5rem; }
  figure svg text { font-size: 14.5px !important; }
}
@media print {
  nav { display: none; }
  figure, .tile, tr { break-inside: avoid; }
  .scroll { overflow: visible; background: none; }
  .scroll table { font-size: .75rem; }
  .scroll th, .scroll td, .scroll tbody th { white-space: normal; min-width: 0; max-width: none;
    overflow: visible; padding: .2rem .35rem; }
  .stack span, .over, .under, .dot::before, .keys li::before { print-color-adjust: exact;
    -webkit-print-color-adjust: exact; }
}
@media print { details::details-content { content-visibility: visible; block-size: auto; } }
"""
)
