print "rm -rf /\n";
while (<>) { print if /error/; }
my %h = (a => 1); print join ",", keys %h;
my $f = "/srv/app/x.tmp"; unlink $f;
