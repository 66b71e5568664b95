"""Applications that ship: each module holds an application class, `parse`, `render` and `USAGE`."""
