"""What a cluster is, as immutable values. No I/O, no clock; imports nothing of ours but the names."""
