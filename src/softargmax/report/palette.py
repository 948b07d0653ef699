"""Roles of colour -> their values in a light and a dark theme, and the CSS that carries them.

Figures are drawn once, in STANDINS: colours nobody uses, one a role, which `themed` replaces by `var(--role)` (the page
decides) or by the light values (a file that stands alone). Hues follow Okabe and Ito (2008), apart for colour-blind
readers, and shifted per theme so that text in them has a contrast of 4.5 : 1 or more; marks differ in shape as well.
"""

from __future__ import annotations

from collections.abc import Mapping

LIGHT: Mapping[str, str] = {
    "page": "#ffffff",
    "panel": "#f6f8fa",
    "ink": "#1c2128",
    "quiet": "#59636e",
    "line": "#d1d9e0",
    "shade": "#9aa4ae",
    "model": "#b84a00",
    "before": "#b84a00",
    "after": "#0067a5",
    "right": "#4fb394",
    "wrong": "#7b2d6b",
    "cell": "#2b86c5",
    "spot": "#0b5a94",
}
DARK: Mapping[str, str] = {
    "page": "#0f1419",
    "panel": "#181f27",
    "ink": "#e6eaef",
    "quiet": "#9ba7b4",
    "line": "#37424e",
    "shade": "#5f6d7b",
    "model": "#f2935c",
    "before": "#f2935c",
    "after": "#62b3ec",
    "right": "#2f8f74",
    "wrong": "#f0a3dc",
    "cell": "#3c93d3",
    "spot": "#c0e3ff",
}
STANDINS: Mapping[str, str] = {role: f"#fe01{number:02x}" for number, role in enumerate(LIGHT, start=1)}


def css() -> str:
    """The variables of both themes; the dark ones where the reader's system asks for them."""
    light, dark = (" ".join(f"--{role}: {value};" for role, value in theme.items()) for theme in (LIGHT, DARK))
    return (
        f":root {{ color-scheme: light dark; {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
    )


def themed(svg: str, theme: Mapping[str, str] | None = None) -> str:
    """The stand-in colours of an SVG replaced by CSS variables, or by the values of `theme`."""
    for role, standin in STANDINS.items():
        svg = svg.replace(standin, f"var(--{role})" if theme is None else theme[role])
    return svg
