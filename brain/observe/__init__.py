"""Watches the Kubernetes API and keeps what the decisions need of it. Writes nothing, decides nothing."""
