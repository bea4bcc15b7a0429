"""Figures, and the table of them."""

import statistics
from dataclasses import dataclass, field

COLUMNS = ["floor", "podshim", "podman", "containerd", "crun", "runc", "others"]


@dataclass
class Line:
    """A line of the table. Values are numbers in the unit; `others` is a name besides."""

    title: str
    unit: str
    aim: str = ""
    cells: dict = field(default_factory=dict)
    # Column → why there is none.
    missing: dict = field(default_factory=dict)
    # What is said about the aim, from the cells.
    judge: object = None
    bigger_is_better: bool = False

    def add(self, column, value):
        self.cells.setdefault(column, []).append(value)

    def values(self):
        return {name: value_of(samples) for name, samples in self.cells.items()}

    def verdict(self):
        return self.judge(self, self.values()) if self.judge else ""


def at_most(share, other):
    """An aim: podshim's is at most this share of another's. A list of others: of each."""

    def judge(line, values):
        others = [name for name in ([other] if isinstance(other, str) else other) if name in values]
        if not others or "podshim" not in values:
            return "not judged"
        worst = max(values["podshim"] / values[name] if values[name] else float("inf") for name in others)
        return "met" if worst <= share else f"not met: {worst:.2g} ×"

    return judge


def at_least(times, other):
    def judge(line, values):
        others = [name for name in ([other] if isinstance(other, str) else other) if name in values]
        if not others or "podshim" not in values:
            return "not judged"
        worst = min(values["podshim"] / values[name] for name in others)
        return "met" if worst >= times else f"not met: {worst:.2g} ×"

    return judge


def below(limit):
    return lambda line, values: "not judged" if "podshim" not in values else "met" if values["podshim"] <= limit else "not met"


def both(*judges):
    def judge(line, values):
        verdicts = [one(line, values) for one in judges]
        return "met" if all(verdict == "met" for verdict in verdicts) else "; ".join(dict.fromkeys(verdicts))

    return judge


def value_of(samples):
    return statistics.median(samples)


def p99(samples):
    """The 99th percentile; of fewer than 100 samples the largest."""
    return sorted(samples)[min(len(samples) - 1, int(len(samples) * 0.99))]


def shown(value, unit):
    if unit == "ms":
        return f"{value:.1f} ms" if value >= 10 else f"{value:.2f} ms"
    if unit == "KiB" and value >= 10240:
        return f"{value / 1024:.1f} MiB"
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"


def markdown(lines):
    columns = [name for name in COLUMNS if any(name in line.cells or name in line.missing for line in lines)]
    rows = [["figure", *columns, "aim", ""]]
    for line in lines:
        values = line.values()
        cells = []
        for name in columns:
            if name in values:
                cell = shown(values[name], line.unit)
                if name != "podshim" and values.get("podshim"):
                    cell += f" (× {values[name] / values['podshim']:.2g})"
                cells.append(cell)
            else:
                cells.append(line.missing.get(name, "–"))
        rows.append([line.title, *cells, line.aim, line.verdict()])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows)
