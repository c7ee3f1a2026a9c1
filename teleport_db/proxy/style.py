"""What the pages look like: one style sheet and one icon, both served by the proxy itself.

Nothing comes from another site, and nothing is inline, so that the content security policy can say so.
"""

from __future__ import annotations

import hashlib

STYLE = b"""\
:root {
  color-scheme: light dark;
  --page: #f3f4f8; --card: #ffffff; --text: #1b1f2a; --quiet: #5a6275; --line: #d5d9e4; --field: #ffffff;
  --edge: #868ea3;
  --accent: #4338ca; --accent-dark: #3730a3; --on-accent: #ffffff; --code: #f3f4f8;
  --bad: #b42318; --bad-soft: #fef3f2; --good: #067647; --good-soft: #ecfdf3;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0f1219; --card: #181c26; --text: #e7e9f0; --quiet: #a1a9bb; --line: #343b4b; --field: #11151d;
    --edge: #6b7489;
    --accent: #a5b4fc; --accent-dark: #c7d2fe; --on-accent: #14172a; --code: #11151d;
    --bad: #fda29b; --bad-soft: #321a1b; --good: #75e0a7; --good-soft: #10281e;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; min-height: 100vh; padding: 2rem 1rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  display: flex; flex-direction: column; align-items: center;
}
header, main, footer { width: 100%; max-width: 27rem; }
header { display: flex; align-items: center; gap: .625rem; margin-bottom: 1rem; font-weight: 600; }
header img { width: 1.75rem; height: 1.75rem; display: block; }
header span { overflow-wrap: anywhere; min-width: 0; }
main {
  padding: 1.75rem; background: var(--card); border: 1px solid var(--line); border-radius: .875rem;
  box-shadow: 0 1px 2px #1018280d, 0 8px 24px #10182814;
}
footer { margin-top: 1rem; text-align: center; color: var(--quiet); font-size: .8125rem; }
h1 { margin: 0 0 .375rem; font-size: 1.5rem; line-height: 1.25; letter-spacing: -.01em; }
h2 { margin: 1.75rem 0 .25rem; font-size: 1.0625rem; line-height: 1.35; }
p { margin: 0 0 .75rem; overflow-wrap: break-word; }
h1 + p { color: var(--quiet); }
label { display: block; margin: 1rem 0 .375rem; font-size: .9375rem; font-weight: 600; }
input {
  width: 100%; min-height: 2.875rem; padding: .5rem .75rem; font: inherit; color: inherit;
  background: var(--field); border: 1px solid var(--edge); border-radius: .5rem;
}
input[readonly] { background: var(--code); border-color: var(--line); color: var(--quiet); }
input[aria-invalid] { border: 2px solid var(--bad); }
#otp[pattern] { max-width: 11rem; font-size: 1.25rem; letter-spacing: .15em; font-variant-numeric: tabular-nums; }
button {
  width: 100%; min-height: 3rem; margin-top: 1.75rem; padding: .625rem 1rem; font: inherit; font-weight: 600;
  color: var(--on-accent); background: var(--accent); border: 0; border-radius: .5rem; cursor: pointer;
}
button:hover { background: var(--accent-dark); }
a { color: var(--accent); text-underline-offset: .15em; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.hint, .problem { margin: 0 0 .375rem; font-size: .875rem; }
.hint { color: var(--quiet); }
.problem { color: var(--bad); font-weight: 600; }
button + .hint { margin: .75rem 0 0; text-align: center; }
.note { margin: 1rem 0; padding: .75rem .875rem; border-radius: .5rem; font-size: .9375rem; }
.bad { color: var(--bad); background: var(--bad-soft); }
.good { color: var(--good); background: var(--good-soft); }
.note p, main > :last-child, form > :last-child { margin-bottom: 0; }
.qr { display: block; width: 13rem; height: 13rem; margin: 1rem auto; background: #fff; border-radius: .625rem;
  border: 1px solid var(--line); image-rendering: pixelated; }
.app { text-align: center; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .875rem; }
p code { overflow-wrap: anywhere; }
pre span { display: inline-block; max-width: 100%; }
.secret { display: block; margin-top: .375rem; padding: .625rem .75rem; letter-spacing: .04em; user-select: all;
  background: var(--code); border: 1px solid var(--line); border-radius: .5rem; color: var(--text); }
.codes { margin: .5rem 0 1rem; padding: .75rem .875rem; list-style: none; background: var(--code);
  border: 1px solid var(--line); border-radius: .5rem; columns: 11rem; user-select: all; }
.codes li { break-inside: avoid; line-height: 1.9; }
pre { margin: .5rem 0 1rem; padding: .75rem .875rem; background: var(--code); border: 1px solid var(--line);
  border-radius: .5rem; white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 30rem) {
  body { padding: 1rem .75rem; }
  main { padding: 1.25rem; }
}
"""

#: Changes with the style, so that browsers may keep what they have.
STYLE_VERSION = hashlib.sha256(STYLE).hexdigest()[:12]

ICON = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
    b'<rect width="32" height="32" rx="8" fill="#4338ca"/>'
    b'<g fill="none" stroke="#fff" stroke-width="2.25"><ellipse cx="16" cy="10" rx="8" ry="3"/>'
    b'<path d="M8 10v6c0 1.7 3.6 3 8 3s8-1.3 8-3v-6M8 16v6c0 1.7 3.6 3 8 3s8-1.3 8-3v-6"/></g></svg>'
)
