
# The first process of a pod whose containers share a pid namespace. It does nothing: it is there so that the namespace
# lives, and what nobody waits for any more is taken care of (a process that ended stays as a zombie until its parent, or
# pid 1 in its place, takes note).
PAUSE='
$0 = "podshim-pause";
$SIG{CHLD} = "IGNORE";
open(my $go, "<&=", 3) or die "gate: $!\n";
open(my $ready, ">&=", 4) or die "gate: $!\n";
syswrite($ready, "ready\n");
close($ready);
<$go>;
close($go);
close(STDIN); close(STDOUT); close(STDERR);
sleep while 1;'
