"""Schema versions, one module each; applied by migrate.py when a store is opened."""
