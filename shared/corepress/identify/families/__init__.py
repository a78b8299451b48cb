"""The families that Corepress knows: how each is recognised and configured."""
