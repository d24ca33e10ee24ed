"""The node agent: reports what the GPUs of one node hold and brings them to the geometry that the brain orders.

It has no right in the Kubernetes API and decides nothing: without an order it only looks.
"""
