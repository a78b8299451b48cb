"""Core ML: converting a component to a package on any host, compiling it on macOS."""
