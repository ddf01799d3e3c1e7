"""The embedded stack: the real servers, started from wheels alone, for laptops, tests and demonstrations."""
