"""Pure functions from a snapshot to decisions. No I/O, no clock, no randomness; imports ``brain.model`` only."""
