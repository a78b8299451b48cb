"""Publishing: the bundle that apps load, its manifest, model card and checksums."""
