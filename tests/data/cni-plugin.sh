#!/bin/sh
# A CNI plugin for tests (src/network/cni/tests): linked into a folder under a plugin's name, it notes in `log` how it is
# called, and does what the folder's files say: NAME.early and NAME.<command> are shell scripts, NAME.result is what ADD
# answers.
here=$(dirname "$0")
name=$(basename "$0")
[ ! -e "$here/$name.early" ] || . "$here/$name.early"
number=$(ls "$here/log" | grep -c 'call$')
number=$(printf %03d "$number")
cat >"$here/log/$number.in"
tr '\0' '\n' <"/proc/$$/environ" | sort >"$here/log/$number.env"
echo "$CNI_COMMAND $name" >"$here/log/$number.call"
[ ! -e "$here/$name.$CNI_COMMAND" ] || . "$here/$name.$CNI_COMMAND"
case $CNI_COMMAND in
ADD) cat "$here/$name.result" ;;
VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}' ;;
esac
