"""An S3-compatible object store (boto3)."""
