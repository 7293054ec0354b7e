"""Pictures: their data, which is tested, and their drawing."""
