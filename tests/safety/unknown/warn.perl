#: Merely unknown: a warning, and an approval in production or if a policy says so.
system("uptime");
exec $ARGV[0];
my $x = `ls`;
eval $code;
open(F, "ls |");
