"""Who somebody is: tokens of every origin judged, passwords checked, tokens of our own made; what is kept of it is in store.people."""
