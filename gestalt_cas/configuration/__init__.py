"""The provider's configuration: where it comes from, what its schema says, and the values that it becomes."""
