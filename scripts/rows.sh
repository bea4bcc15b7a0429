#!/bin/bash
# Counts the rows of the table of fields (tests/rows.tsv): what is enforced, refused, accepted and reported with the tests
# that show it, and what is missing.
#
#   scripts/rows.sh [--paths|--strict]
#
# With --paths each row is printed with its tests; with --strict the exit code is 1 if a row of priority P1 or P2 is missing. Whether the tests
# are there and say the field's name is what `cargo test --test rows` looks at; they themselves are run by scripts/test.sh.
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit ;; esac
cd "$(dirname "$0")/.."

exec awk -F '\t' -v show="${1:-}" '
    NR == 1 { next }
    {
        kind = $2
        if ($4 == "-") kind = "missing"
        count[$3, kind]++
        if (kind == "missing") {
            missing = missing sprintf("  %-3s %s%s\n", $3, $1, $5 == "" ? "" : " (" $5 ")")
            if ($3 == "P1" || $3 == "P2") failed = 1
        }
        if (show == "--paths") {
            tests = $4
            gsub(",", "\n      ", tests)
            printf "%-9s %-3s %s\n      %s\n", kind, $3, $1, tests
        }
    }
    END {
        if (NR < 200) { print "tests/rows.tsv is not whole" > "/dev/stderr"; exit 2 }
        number = split("enforced refused accepted reported missing", kinds, " ")
        split("P1 P2 P3 -", priorities, " ")
        printf "%-8s", "rows"
        for (k = 1; k <= number; k++) printf " %9s", kinds[k]
        printf "\n"
        for (p = 1; p <= 4; p++) {
            printf "%-8s", priorities[p]
            for (k = 1; k <= number; k++) {
                printf " %9d", count[priorities[p], kinds[k]]
                sum[kinds[k]] += count[priorities[p], kinds[k]]
            }
            printf "\n"
        }
        printf "%-8s", "all"
        for (k = 1; k <= number; k++) printf " %9d", sum[kinds[k]]
        printf "\n"
        if (missing != "") printf "\nmissing:\n%s", missing
        exit show == "--strict" ? failed : 0
    }
' tests/rows.tsv
