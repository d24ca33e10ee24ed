"""The agents' sessions: the one place that holds the streams. Knows nothing of Kubernetes and decides nothing."""
