"""Searches by gradients in a supernet: BIPEFT and S3Delta."""
