"""The brain: one leader per cluster observes, decides and acts."""
