"""Where credentials can be imported from: files."""
