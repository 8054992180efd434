"""Everything on one machine: embedded servers, supervised processes, and a lab of loopback machines."""
