"""S3Delta: search for sparse structures of delta tuning."""

from autopeft.searches.s3delta.sampler import MEMBERS

__all__ = ["MEMBERS"]
