"""Planning without a cluster: from files to the planner and back, for those who want to know what would happen."""
