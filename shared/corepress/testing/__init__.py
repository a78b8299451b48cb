"""The contract suites that every bus and every store must pass. Needs pytest."""
