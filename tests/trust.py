"""The table of docs/trust.md: each header, where it crosses the border between UE and core, and what becomes of it.

It is made of `pcscf.trust.RULES` and of nothing else. `python -m tests.trust` prints it; with `--write` it goes into
the page, between its markers.
"""

import argparse
from pathlib import Path

from pcscf.trust import ALL, DOWN, REQUESTS, RESPONSES, RULES, UP, Crossing, Rule, drop, hop, keep

PAGE = Path(__file__).resolve().parents[1] / "docs" / "trust.md"
BEGIN, END = "<!-- rules: made by python -m tests.trust --write -->", "<!-- end of rules -->"
TOGETHER = {ALL: "all", UP: "up", DOWN: "down", REQUESTS: "requests", RESPONSES: "responses"}
"""Crossings that have a name together."""


def page() -> str:
    """The table as it stands between the markers."""
    lines = ["| header | crossing | action | clause | certainty | why |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {rule.headers} | {_crossings(rule)} | {_action(rule)} | {rule.clause} | {rule.certainty} | {rule.why} |"
        for rule in RULES
    ]
    return "\n".join(lines)


def _crossings(rule: Rule) -> str:
    left = [each for each in Crossing if each in rule.crossings]
    for crossings, name in TOGETHER.items():
        if set(crossings) == set(left):
            return name
    return ", ".join(left)


def _action(rule: Rule) -> str:
    plain = {keep: "keep", drop: "drop", hop: "as a hop does"}
    text = plain.get(rule.action) or f"rewrite: `{rule.action.__name__}`"
    return f"{text}; drop with Privacy: {rule.dropped_with.replace(', ', ' or ')}" if rule.dropped_with else text


def parts(text: str) -> tuple[str, str, str]:
    """The page before, between and after the markers. Raises ValueError without them."""
    before, found, rest = text.partition(BEGIN)
    between, also_found, after = rest.partition(END)
    if not found or not also_found:
        raise ValueError(f"{PAGE.name} has no markers {BEGIN} and {END}")
    return before + BEGIN, between.strip("\n"), END + after


def main() -> None:
    """Print the table or write it into docs/trust.md."""
    parser = argparse.ArgumentParser(prog="python -m tests.trust", description=main.__doc__)
    parser.add_argument("--write", action="store_true", help=f"into docs/{PAGE.name}, between its markers")
    if parser.parse_args().write:
        before, _, after = parts(PAGE.read_text())
        PAGE.write_text(f"{before}\n{page()}\n{after}")
    else:
        print(page())


if __name__ == "__main__":
    main()
