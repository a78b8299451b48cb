"""What people ask for in files: options with defaults and matrices become job requests."""
