#!/bin/sh
# Joins the cgroups that scripts/critest.sh made ($CGROUPS, one a line) and runs a command in namespaces of its own:
#
#   CGROUPS=... enter.sh COMMAND...
#
# The cgroup namespace is made first, in those cgroups, so that they are its root. Version 2 then wants that root empty,
# so this process moves one down, into "harness". The end of this process ends the command and all that it started.
set -eu
echo "$CGROUPS" | while read -r cgroup; do
    echo $$ >"$cgroup/cgroup.procs"
done
# shellcheck disable=SC2016 # for the inner shell
exec unshare --cgroup -- sh -euc '
    echo "$CGROUPS" | while read -r cgroup; do
        [ ! -d "$cgroup/harness" ] || echo $$ >"$cgroup/harness/cgroup.procs"
    done
    exec unshare --mount --propagation private --net --ipc --uts --pid --fork --kill-child --mount-proc -- "$@"' sh "$@"
