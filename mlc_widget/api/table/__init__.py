"""`engine.map`: a model over the rows of a table, structured, cached and reproducible."""
