"""S3 engines that we did not write, behind the contract through a thin adapter, for the conformance kit."""
