"""The wire between proxy and worker; knows neither side."""
