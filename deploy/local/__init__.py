"""A Kubernetes cluster on one machine, with simulated MIG GPUs and without a container engine.

It exists so that the demo, the tests and a person at a keyboard see the chart at work on a real control plane and
real kubelets. It refuses to be more than that: see README.md beside this file for what it does not show.
"""
