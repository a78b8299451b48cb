"""What the runtime needs of the world, as protocols with their required semantics."""
