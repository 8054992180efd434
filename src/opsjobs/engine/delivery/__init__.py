"""Deliveries: sources queue messages, and one sender passes them to their destinations."""
