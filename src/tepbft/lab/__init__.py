"""The laboratory: benchmarks and experiments on clusters that run as users run them."""
