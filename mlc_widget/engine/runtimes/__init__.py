"""The runtimes, which execute models, and the interface that they implement (`base`)."""
