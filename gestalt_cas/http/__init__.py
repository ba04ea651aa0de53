"""The HTTP endpoint: objects by presigned URL, and the pages for monitoring."""
