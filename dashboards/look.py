"""How pages look: one style sheet, for the live pages and for the report; from a desk's screen to 375 pixels."""

from __future__ import annotations

CSS = """
:root { color-scheme: light; --ink: #1c2733; --faint: #5b6875; --line: #dfe5ea; --paper: #ffffff; --ground: #f4f6f8;
  --blue: #0072b2; --green: #007a59; --orange: #9a5b00; --red: #b54400;
  --Dash-Fill-Interactive-Strong: #0072b2; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.45 system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif; }
a { color: var(--blue); text-underline-offset: 2px; }
:focus-visible { outline: 3px solid var(--blue); outline-offset: 2px; border-radius: 4px; }
main { max-width: 1320px; margin: 0 auto; padding: 20px 24px 48px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 28px 0 10px; }
h3 { font-size: 15px; margin: 0 0 8px; }
p { margin: 0 0 8px; }
.faint { color: var(--faint); font-size: 13px; }
.row { display: flex; flex-wrap: wrap; gap: 8px 14px; align-items: center; }
.spread { justify-content: space-between; }
.head { margin-bottom: 14px; gap: 10px 18px; }
.crumb { font-size: 13px; color: var(--faint); }
.chip { display: inline-flex; align-items: center; gap: 6px; padding: 2px 10px; border-radius: 999px; font-size: 13px;
  font-weight: 600; border: 1px solid currentColor; background: var(--paper); white-space: nowrap; }
.chip.running, .chip.front { color: var(--blue); } .chip.complete, .chip.feasible, .chip.met { color: var(--green); }
.chip.front { color: var(--green); } .chip.stopped, .chip.new, .chip.early { color: var(--faint); }
.chip.interrupted, .chip.missed { color: var(--orange); } .chip.failed { color: var(--red); }
.chip.running::before { content: ""; width: 8px; height: 8px; border-radius: 50%; background: currentColor;
  animation: pulse 1.6s ease-in-out infinite; }
@keyframes pulse { 50% { opacity: .25; } }
@media (prefers-reduced-motion: reduce) { .chip.running::before { animation: none; } }
progress { appearance: none; display: block; width: 100%; height: 6px; border: 0; border-radius: 3px;
  overflow: hidden; }
progress::-webkit-progress-bar { background: var(--line); }
progress::-webkit-progress-value { background: var(--blue); transition: width .4s; }
progress::-moz-progress-bar { background: var(--blue); }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px;
  min-width: 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(270px, 1fr)); gap: 14px; margin-top: 14px; }
.two { display: grid; grid-template-columns: minmax(0, 1.55fr) minmax(0, 1fr); gap: 14px; margin-top: 14px;
  align-items: start; }
.halves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 14px;
  margin-top: 14px; align-items: start; }
.figures { display: flex; flex-wrap: wrap; gap: 6px 22px; }
.figure b { display: block; font-size: 22px; font-weight: 650; line-height: 1.2; font-variant-numeric: tabular-nums; }
.figure span { font-size: 12.5px; color: var(--faint); }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--faint); font-size: 12.5px; }
th, td { padding: 4px 10px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child > * { border-bottom: 0; }
td.number, th.number { text-align: right; white-space: nowrap; }
td.name { overflow-wrap: break-word; }
.policies { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 4px 22px; }
.scroll { overflow-x: auto; }
.met { color: var(--green); font-weight: 600; } .missed { color: var(--orange); font-weight: 600; }
.button { display: inline-block; font: inherit; font-size: 14px; font-weight: 600; padding: 7px 14px; cursor: pointer;
  border-radius: 8px; border: 1px solid var(--blue); color: var(--blue); background: var(--paper);
  text-decoration: none; min-height: 36px; line-height: 20px; }
.button.first { background: var(--blue); color: #fff; }
.button:hover { filter: brightness(.94); } .button:disabled { opacity: .45; cursor: default; }
.pick { display: flex; align-items: center; gap: 8px; font-size: 13px; color: var(--faint); min-width: 0; }
.pick > div { min-width: 150px; flex: 1; color: var(--ink); }
.trouble:not(:empty) { margin: 12px 0; padding: 10px 14px; border: 1px solid var(--orange); border-radius: 8px;
  background: #fff8ec; }
.wait { min-height: 20px; margin-top: 6px; }
.halves > :last-child:nth-child(odd) { grid-column: 1 / -1; }
.stack { display: grid; gap: 14px; min-width: 0; }
details > summary { cursor: pointer; font-weight: 600; padding: 4px 0; }
.list { list-style: none; padding: 0; margin: 16px 0; display: grid; gap: 12px;
  grid-template-columns: repeat(auto-fill, minmax(min(340px, 100%), 1fr)); }
.list a { display: block; color: inherit; text-decoration: none; }
.list a:hover h3 { text-decoration: underline; }
@media (max-width: 900px) { .two { grid-template-columns: minmax(0, 1fr); } }
@media (max-width: 600px) {
  main { padding: 14px 12px 32px; } h1 { font-size: 22px; } .card { padding: 12px; }
  .figure b { font-size: 19px; } .pick { width: 100%; }
}
@media print { body { background: #fff; } .card { break-inside: avoid; } }
"""
