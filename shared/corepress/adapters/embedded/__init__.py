"""Bus and store on one machine, with nothing to install."""
