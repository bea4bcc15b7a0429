#!/usr/bin/env python3
"""Reads what critest wrote, prints a table, and says by its exit code whether it is as it should be.

    report.py table --server NAME --expected FILE --run OPTIONS --code N RESULTS
    report.py benchmark RESULTS...
"""

import argparse
import json
import re
import statistics
import sys
from pathlib import Path

FAILED = {"failed", "panicked", "interrupted", "aborted", "timedout"}


def full_name(spec):
    return " ".join([*(spec["ContainerHierarchyTexts"] or []), spec["LeafNodeText"]])


def first_line(text):
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return lines[0] if lines else ""


def gist(text):
    """The lines of gomega's message that say something: what was done, and the error's own words."""
    noise = re.compile(r"^(Unexpected error:|<.*>: *$|[{}].*|occurred$|\w+: [\[{\"<].*|\w+: (nil|\d+),?$)")
    lines = [line.strip() for line in (text or "").splitlines()]
    return "; ".join([line for line in lines if line and not noise.match(line)][:2])[:300]


def reason(spec):
    failure = spec.get("Failure") or {}
    return (failure.get("Message") or "").strip()


def specs_of(report):
    """The specs that were chosen: those that a filter left out are skipped without a reason."""
    for suite in json.loads(report.read_text()):
        for problem in suite.get("SpecialSuiteFailureReasons") or []:
            yield "suite", {"ContainerHierarchyTexts": [], "LeafNodeText": "the suite", "RunTime": 0,
                            "Failure": {"Message": problem}}
        for spec in suite["SpecReports"] or []:
            if spec["LeafNodeType"] != "It":
                if spec["State"] in FAILED:
                    spec["LeafNodeText"] = spec["LeafNodeText"] or spec["LeafNodeType"]
                    yield "failed", spec
                continue
            state = "failed" if spec["State"] in FAILED else spec["State"]
            if state == "skipped" and not reason(spec):
                continue
            yield state, spec


def expectations(path):
    """What may fail or be skipped, and run → how many specs must pass."""
    rows, least = [], {}
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            outcome, run, *rest = line.split("\t")
            if outcome == "passed":
                least["" if run == "-" else run] = int(rest[0])
            else:
                name, words, why = rest
                rows.append((outcome, run, name, re.compile(words), why))
    return rows, least


def is_of(row_run, run):
    """Whether a row is about this run."""
    lacks = row_run.removeprefix("without ")
    if lacks != row_run:
        return lacks not in run
    return row_run == "*" or row_run in run


def expected(rows, run, outcome, spec):
    for row_outcome, row_run, name, words, why in rows:
        if row_outcome == outcome and is_of(row_run, run) and (name == "*" or name in full_name(spec)):
            if words.search(reason(spec)):
                return why
    return None


def table(arguments):
    results = Path(arguments.results)
    out = []
    report = results / "report.json"
    if not report.exists():
        print((results / "critest.log").read_text()[-3000:] if (results / "critest.log").exists() else "")
        print(f"critest wrote no report (exit code {arguments.code}): see {results}", file=sys.stderr)
        return 1
    rows, least = expectations(Path(arguments.expected))
    found = {"passed": [], "failed": [], "skipped": [], "suite": []}
    for state, spec in specs_of(report):
        found.setdefault(state, []).append(spec)
    unexpected = 0
    for outcome in ("failed", "skipped"):
        groups = {}
        for spec in found[outcome]:
            groups.setdefault(first_line(reason(spec)) if outcome == "skipped" else full_name(spec), []).append(spec)
        for title, specs in sorted(groups.items()):
            why = expected(rows, arguments.options, outcome, specs[0])
            mark = f"expected: {why}" if why else "NOT EXPECTED"
            unexpected += 0 if why else len(specs)
            if outcome == "failed":
                out.append(f"FAILED   {title}  ({mark})")
                out.append(f"         {gist(reason(specs[0]))}")
            else:
                out.append(f"SKIPPED  {len(specs):3d}  {title[:160]}  ({mark})")
                out += [f"              {full_name(spec)}" for spec in specs]
    strange = [state for state in found if state not in ("passed", "failed", "skipped", "suite") and found[state]]
    for state in strange:
        unexpected += len(found[state])
        out.append(f"{state}: {len(found[state])}")
    for problem in found["suite"]:
        out.append(f"suite: {reason(problem)}")
    seconds = sum(spec["RunTime"] for state in found for spec in found[state]) / 1e9
    total = sum(len(found[state]) for state in ("passed", "failed", "skipped"))
    for name in ("notes.txt", "left.txt"):
        path = results / name
        if path.exists():
            out += [f"{'left' if name == 'left.txt' else 'note'}: {line}" for line in path.read_text().splitlines()]
    leaks = (results / "left.txt").exists() and (results / "left.txt").stat().st_size > 0
    version = (results / "version.txt").read_text() if (results / "version.txt").exists() else ""
    version = " ".join(re.findall(r"Runtime(?:Name|Version):\s*(\S+)", version))
    out.append(
        f"{version or arguments.server}: {total} specs: {len(found['passed'])} passed, {len(found['failed'])} failed, "
        f"{len(found['skipped'])} skipped; {seconds:.0f} s in specs"
    )
    (results / "table.txt").write_text("\n".join(out) + "\n")
    print("\n".join(out))
    if not total:
        print("no spec was chosen", file=sys.stderr)
        return 1
    if arguments.code not in (0, 1) or (arguments.code and not found["failed"]):
        print(f"critest ended with exit code {arguments.code}: see {results}/critest.log", file=sys.stderr)
        return 1
    if arguments.server != "podshim":
        return 0
    if unexpected:
        print(f"{unexpected} specs are not as they should be: see {results}/critest.log", file=sys.stderr)
    missing = least.get(arguments.options, 0) - len(found["passed"])
    if missing > 0:
        print(f"{missing} specs fewer passed than should: see {results}/critest.log", file=sys.stderr)
    return 1 if unexpected or leaks or missing > 0 else 0


def samples(directory):
    """Operation → durations in milliseconds, from the files of `critest -benchmark`."""
    found = {}
    for path in sorted(Path(directory).glob("*_benchmark_data.json")):
        data = json.loads(path.read_text())
        for index, name in enumerate(data["operationsNames"]):
            found[name] = [point["operationsDurationsNs"][index] / 1e6 for point in data["datapoints"]]
    return found


def benchmark(arguments):
    """A column for each run, and how many times the first one's time each other takes."""
    runs = {Path(directory).name.removeprefix("benchmark-"): samples(directory) for directory in arguments.results}
    first, *others = runs
    names = list(runs[first])
    if not names or any(set(runs[other]) != set(names) for other in others):
        print(f"the runs did not measure the same: { {run: sorted(runs[run]) for run in runs} }", file=sys.stderr)
        return 1
    heads = [f"{run:>13}" for run in runs] + [f"{other}/{first}" for other in others]
    print(f"{'median':18} {'samples':>7} {' '.join(heads)}")
    for name in names:
        if not all(runs[run][name] for run in runs):
            print(f"{name}: no samples", file=sys.stderr)
            return 1
        medians = {run: statistics.median(runs[run][name]) for run in runs}
        cells = [f"{medians[run]:10.2f} ms" for run in runs]
        cells += [f"{medians[other] / medians[first]:{len(other) + len(first)}.1f}x" for other in others]
        print(f"{name:18} {len(runs[first][name]):7d} {' '.join(cells)}")
    return 0


def main():
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(required=True)
    verb = verbs.add_parser("table")
    verb.add_argument("--server", required=True)
    verb.add_argument("--expected", required=True)
    verb.add_argument("--run", dest="options", required=True)
    verb.add_argument("--code", type=int, required=True)
    verb.add_argument("results")
    verb.set_defaults(run=table)
    verb = verbs.add_parser("benchmark")
    verb.add_argument("results", nargs="+")
    verb.set_defaults(run=benchmark)
    arguments = parser.parse_args()
    sys.exit(arguments.run(arguments))


if __name__ == "__main__":
    main()
