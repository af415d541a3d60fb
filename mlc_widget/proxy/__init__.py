"""The notebook's side: worker life cycle, connection, kernel engines."""
