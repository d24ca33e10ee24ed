"""The admission webhook: refuses quotas that contradict others, and puts the gate on pods where no policy does.

It writes nothing itself, and lets no pod in: that is the brain's.
"""
