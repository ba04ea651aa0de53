"""The gRPC services of the contract: the seven calls of S3, the provider's lifecycle, and their streams."""
