"""WinRM: WS-Management over HTTP connections that are authenticated and encrypted."""
