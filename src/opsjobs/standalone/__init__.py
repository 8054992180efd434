"""Run the whole service on one machine: embedded servers, supervised processes and a lab."""
