#: Each must be blocked.
system("rm", "-rf", "/");
my $d = "/etc"; system("rm -rf $d");
use File::Path; my $d = "/" . "usr"; rmtree($d);
