"""The admission webhook: refuses quotas that contradict others. It writes nothing, and never stands before pods."""
