"""The life of a delivery: claim, run, commit, publish, settle."""
