"""What others ask of the brain: the inventory, health, metrics. Reads what is published; changes nothing."""
